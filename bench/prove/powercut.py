"""What a power cut may take, from the log of file operations: bytes that were not synced, and names in folders that were not."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from prove.shim import Operation

BYTES = ("create", "write", "resize")
T = TypeVar("T")


class Synced(NamedTuple):
    """A copy of what the last sync of a file put on the disk, and how much of it no truncation has taken since."""

    copy: Path
    length: int


@dataclass
class Disk:
    """What is on the disk after some operations: for each path whether its bytes, and whether its name, are there for good."""

    content: dict[str, bool] = field(default_factory=dict)
    names: dict[str, bool] = field(default_factory=dict)
    synced: dict[str, Synced] = field(default_factory=dict)

    def follow(self, operations: Iterable[Operation]) -> Disk:
        for operation in operations:
            self._step(operation)
        return self

    def _step(self, operation: Operation) -> None:
        name, path = operation.name, operation.path
        if not operation.done:
            return
        if name in BYTES:
            self.content[path] = False
        if path in self.synced and (name == "resize" or (name == "create" and operation.size)):
            copy, length = self.synced[path]
            self.synced[path] = Synced(copy, min(length, operation.size if name == "resize" else 0))
        if name in ("create", "mkdir"):
            self.names.setdefault(path, False)
        elif name == "sync":
            self.content[path] = True
            if operation.copy is not None:
                self.synced[path] = Synced(operation.copy, operation.copy.stat().st_size)
            self.names |= {each: True for each in self.names if os.path.dirname(each) == path}  # noqa: PTH120
        elif name == "rename":
            self.content, self.names = (_moved(held, operation.source, path) for held in (self.content, self.names))
            self.synced = _moved(self.synced, operation.source, path)
            self.names[path] = False
        elif name == "remove":
            self.content.pop(path, None)
            self.names.pop(path, None)
            self.synced.pop(path, None)

    def torn(self, operations: Iterable[Operation]) -> list[str]:
        """Follow them; returns what is there that was renamed before its bytes were synced."""
        found = []
        for operation in operations:
            if operation.name == "rename":
                moved = _moved(self.content, operation.source, operation.path)
                found += [path for path, synced in moved.items() if not synced and path not in self.content]
            self._step(operation)
        return [path for path in found if os.path.lexists(path)]

    def lost_bytes(self, folder: Path, before: Collection[Path] = ()) -> list[Path]:
        """Files below `folder` whose bytes are not on the disk; those that were there `before` count where they were written.

        Written, too, without a word in the log, as Rust's libraries do: what no sync was logged of is lost. A link has
        no bytes of its own, so its folder must have been synced; what it leads to is a file like others.
        """
        files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
        holders = {path: path.parent if path.is_symlink() else path for path in files}
        return [path for path, holder in holders.items() if not self.content.get(str(holder), path in before)]

    def lost_names(self) -> list[Path]:
        """Files and folders that are there and would not be."""
        return [Path(path) for path, synced in self.names.items() if not synced and os.path.lexists(path)]


def cut(operations: Iterable[Operation]) -> list[Path]:
    """Take from every file what was written after its last sync, as ext4 and XFS may; returns them.

    What has never been synced is emptied. What a truncation took is gone, and what overwrote synced bytes is not there.
    """
    disk = Disk().follow(operations)
    lost = [Path(path) for path, synced in disk.content.items() if not synced and Path(path).is_file()]
    for path in lost:
        kept = disk.synced.get(str(path))
        data = kept.copy.read_bytes()[: kept.length] if kept else b""
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(data)
    return lost


def _moved(held: dict[str, T], old: str, new: str) -> dict[str, T]:
    inside = f"{old}/"
    return {
        new + path[len(old) :] if path == old or path.startswith(inside) else path: kept
        for path, kept in held.items()
        if not (path == new or path.startswith(f"{new}/"))
    }
