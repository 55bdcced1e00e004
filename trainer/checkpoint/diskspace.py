"""Does it fit on the disk, and what to say when it did not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from galore.trainer.common.errors import DISK_FULL, RunFailed, to_write
from galore.trainer.common.format import size


def free_bytes(directory: Path) -> int | None:
    """Bytes an ordinary user may still write there; None where the file system does not tell."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def require(directory: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        OSError: ENOSPC, fewer than `needed` bytes are free.
    """
    free = free_bytes(directory)
    if free is not None and free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def require_for_run(directory: Path, checkpoints: int, nbytes: int) -> None:
    """Refuse a run whose last checkpoint would find the disk full.

    Args:
        checkpoints: how many of `nbytes` each will lie there at a time beside what is there now.

    Raises:
        RunFailed: fewer bytes are free.
    """
    free, needed = free_bytes(directory), checkpoints * nbytes
    if free is None or free >= needed:
        return
    what = f"{checkpoints} checkpoints of {size(nbytes)}" if checkpoints > 1 else f"a checkpoint of {size(nbytes)}"
    fewer = "; or save at the end only, with train.save_steps=null" if checkpoints > 1 else ""
    raise RunFailed(
        f"the run needs room for {what}, and {size(free)} are free",
        where=str(directory),
        fix=f"free {size(max(needed - free, 2**20))} there, or choose another --output-dir{fewer}",
    )


def explain(error: OSError, directory: Path, needed: int) -> tuple[str, str]:
    """(what went wrong, what to do about it) for a write of `needed` bytes that failed."""
    what = error.strerror or str(error)
    if error.errno == errno.EEXIST:
        return f"{directory} is no folder", "move it away, or bring back what its link leads to"
    if error.errno not in DISK_FULL:
        return what, to_write(error, str(error.filename or directory))
    free = free_bytes(directory) or 0
    return f"{what} ({size(needed)} are needed, {size(free)} are free)", f"free {size(max(needed - free, 2**20))} there"
