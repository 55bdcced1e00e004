"""A file that is only appended to, and that is written anew where somebody deleted or replaced it meanwhile."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from galore.trainer.common.durable import CHUNK_BYTES, temporary


class Appended:
    """A file that is there, in the folder that has it now, whatever that is called later.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            os.close(self._descriptor)
            raise

    def append(self, data: bytes | bytearray) -> int:
        """Hand bytes to the file; returns how many it took, which may be a part of them.

        Raises:
            OSError: it took none.
        """
        return os.write(self._descriptor, data)

    def sync(self) -> None:
        """Make what was appended durable.

        Raises:
            OSError: the disk did not do so.
        """
        os.fsync(self._descriptor)

    @property
    def is_there(self) -> bool:
        """Whether its name still leads to it; of a folder that is gone, too, nothing is wanted back.

        Raises:
            OSError: the system does not tell.
        """
        there = self._named()
        if there is None:
            return not os.fstat(self._folder).st_nlink
        return os.path.samestat(there, os.fstat(self._descriptor))

    def bring_back(self) -> str:
        """Write all of it anew under its name: this process alone still has it. Returns what had happened to it.

        What has the name by now is kept under another.

        Raises:
            OSError: it cannot be written there; nothing was changed.
        """
        private, held, happened = temporary(Path(self._name)).name, os.fstat(self._descriptor), "was deleted"
        flags = os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(private, os.O_RDWR | flags, 0o600, dir_fd=self._folder)
        try:
            os.fchmod(descriptor, stat.S_IMODE(held.st_mode))
            for start in range(0, held.st_size, CHUNK_BYTES):
                _write(descriptor, os.pread(self._descriptor, CHUNK_BYTES, start))
            os.fsync(descriptor)
            if self._named() is not None:
                kept = free_name(self._name, self._names())
                os.rename(self._name, kept, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                happened = f"was replaced, by what is {kept} now"
            os.rename(private, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(private, dir_fd=self._folder)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        os.fsync(self._folder)
        return happened

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self._folder)

    def _named(self) -> os.stat_result | None:
        try:
            return os.stat(self._name, dir_fd=self._folder)
        except FileNotFoundError:
            return None

    def _names(self) -> set[str]:
        with os.scandir(self._folder) as found:
            return {each.name for each in found}


def free_name(name: str, taken: Container[str]) -> str:
    """The first of `name`.1, `name`.2, … that is not `taken`."""
    return next(free for number in itertools.count(1) if (free := f"{name}.{number}") not in taken)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
