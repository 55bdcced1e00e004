"""What a power cut may take, from the log of file operations: bytes that were not synced, and names in folders that were not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from prove.shim import Operation

BYTES = ("create", "write", "resize")


@dataclass
class Disk:
    """What is on the disk after some operations: for each path whether its bytes, and whether its name, are there for good."""

    content: dict[str, bool] = field(default_factory=dict)
    names: dict[str, bool] = field(default_factory=dict)

    def follow(self, operations: Iterable[Operation]) -> Disk:
        for operation in operations:
            self._step(operation)
        return self

    def _step(self, operation: Operation) -> None:
        name, path = operation.name, operation.path
        if name in BYTES:
            self.content[path] = False
        if name in ("create", "mkdir"):
            self.names.setdefault(path, False)
        elif name == "sync":
            if path in self.content:
                self.content[path] = True
            self.names |= {each: True for each in self.names if os.path.dirname(each) == path}  # noqa: PTH120
        elif name == "rename":
            self.content, self.names = (_moved(held, operation.source, path) for held in (self.content, self.names))
            self.names[path] = False
        elif name == "remove":
            self.content.pop(path, None)
            self.names.pop(path, None)

    def torn(self, operations: Iterable[Operation]) -> list[str]:
        """Follow them; returns what was renamed before its bytes were synced."""
        found = []
        for operation in operations:
            if operation.name == "rename":
                moved = _moved(self.content, operation.source, operation.path)
                found += [path for path, synced in moved.items() if not synced and path not in self.content]
            self._step(operation)
        return found

    def lost_bytes(self) -> list[Path]:
        """Files that are there and would be empty."""
        return [Path(path) for path, synced in self.content.items() if not synced and Path(path).is_file()]

    def lost_names(self) -> list[Path]:
        """Files and folders that are there and would not be."""
        return [Path(path) for path, synced in self.names.items() if not synced and os.path.lexists(path)]


def cut(operations: Iterable[Operation]) -> list[Path]:
    """Empty every file whose bytes were not synced, as ext4 and XFS may leave it; returns them."""
    lost = Disk().follow(operations).lost_bytes()
    for path in lost:
        os.truncate(path, 0)
    return lost


def _moved(held: dict[str, bool], old: str, new: str) -> dict[str, bool]:
    inside = f"{old}/"
    return {
        new + path[len(old) :] if path == old or path.startswith(inside) else path: synced
        for path, synced in held.items()
        if not (path == new or path.startswith(f"{new}/"))
    }
