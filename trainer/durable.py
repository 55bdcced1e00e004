"""Files that survive a power cut: every byte is on the disk before its name is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Written:
    """What reached the disk: length in bytes and SHA-256 (hex) of the content."""

    bytes: int
    sha256: str


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Write `parts` one after another to the new file `path`, hash them on the way, and fsync.

    The parts are consumed lazily, so only one of them needs to be in memory.

    Raises:
        OSError: the disk is full, or the file exists or cannot be written.
    """
    digest, length = hashlib.sha256(), 0
    with path.open("xb") as file:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                file.write(chunk)
                digest.update(chunk)
            length += len(view)
        file.flush()
        os.fsync(file.fileno())
    return Written(length, digest.hexdigest())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename is only safe once its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes | str) -> None:
    """Give `path` new content atomically: readers, and a crash at any moment, see the old or the new one.

    Raises:
        OSError: nothing was changed.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_file(temporary, [data])
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
