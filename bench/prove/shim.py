"""The file operations of this process, counted and made to fail by `shim.c`, which must have been loaded before Python."""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
LIBRARY = Path(__file__).parents[2] / "build/prove/shim.so"


class How(enum.IntEnum):
    """What happens at an operation; the numbers are those of shim.c."""

    OFF, COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL_ONCE, FAIL_ON, SHORT = range(8)


class Which(enum.IntFlag):
    """Classes of operations; the bits are those of shim.c."""

    WRITE, SYNC, RENAME, MKDIR, UNLINK, CREATE, RESIZE, LOCK, MODE, OPEN = (1 << bit for bit in range(10))
    CHANGES = WRITE | SYNC | RENAME | MKDIR | UNLINK | CREATE | RESIZE | MODE


KILLS = (How.KILL_BEFORE, How.KILL_AFTER, How.KILL_HALF)


@dataclass(frozen=True)
class Fault:
    """`how` the operation numbered `at` (from 1) goes wrong, with `error` as its errno where it fails."""

    how: How = How.COUNT
    at: int = 0
    error: int = 0

    def __str__(self) -> str:
        name = f" {errno.errorcode[self.error]}" if self.error else ""
        return f"{self.how.name.lower().replace('_', ' ')}{name} at operation {self.at}"


class Operation(NamedTuple):
    """A line of the log.

    `size`: bytes written, length that a resize gives, 1 where a create empties what was there; `source`: where a rename
    came from; `done`: whether it succeeded; `copy`: of a file's sync, what it put on the disk.
    """

    number: int
    name: str
    size: int
    path: str
    source: str
    done: bool = True
    copy: Path | None = None


def why_not() -> str | None:
    """Why there is no shim here; None where it can be built."""
    return None if shutil.which("gcc") else "gcc is missing: without it no file operation can be made to fail"


def build() -> Path:
    """The library, compiled anew where it is older than its source."""
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
        LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        private = LIBRARY.with_suffix(f".{os.getpid()}.so")
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-Wno-misleading-indentation", "-o", private, SOURCE, "-ldl"], check=True
        )
        private.replace(LIBRARY)
    return LIBRARY


def loaded() -> bool:
    return str(LIBRARY) in os.environ.get("LD_PRELOAD", "")


def arm(fault: Fault, watched: Iterable[Path], which: Which, log: Path | None) -> None:
    """From here on, in this process: count the operations of `which` below the `watched` paths, and let `fault` happen."""
    if not loaded():
        raise RuntimeError("the process was started without the shim")
    library = ctypes.CDLL(str(LIBRARY))
    library.shim_clear()
    for path in watched:
        library.shim_watch(str(path).encode())
    descriptor = -1
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        shutil.rmtree(_copies(log), ignore_errors=True)
        _copies(log).mkdir()
        library.shim_keep(str(_copies(log)).encode())
    library.shim_arm(int(fault.how), ctypes.c_long(fault.at), fault.error, int(which), descriptor)


def operations(log: Path) -> list[Operation]:
    """What was counted; a line that a kill cut off is passed over."""
    found = []
    for line in log.read_text(errors="surrogateescape").splitlines():
        parts = line.split("\t")
        if len(parts) == 6:
            copy = _copies(log) / parts[0]
            kept = copy if parts[1] == "sync" and copy.exists() else None
            found.append(Operation(int(parts[0]), parts[1], int(parts[2]), parts[3], parts[4], parts[5] == "1", kept))
    return found


def _copies(log: Path) -> Path:
    return log.with_name(f"{log.name}.copies")


def distinct(found: Sequence[Operation]) -> list[Operation]:
    """Of a long series of writes to one file only the first two, the middle and the last."""
    kept: list[Operation] = []
    series: list[Operation] = []
    for operation in [*found, None]:
        if operation and operation.name == "write" and (not series or series[-1].path == operation.path):
            series.append(operation)
            continue
        kept += series if len(series) <= 4 else [*series[:2], series[len(series) // 2], series[-1]]
        series = []
        if operation:
            (series if operation.name == "write" else kept).append(operation)
    return kept
