"""One process per run directory: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from galore.trainer.errors import UserError

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked worker would keep the lock of a killed parent alive: it must not own it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive `flock` on the file `path`, which names the holder's pid and host.

    The file stays when the lock is released. Only the holder may delete it: who had opened it before is then refused, or
    two processes would lock two files of one name.

    Raises:
        UserError: another process holds it (which one) or deleted it just now, or it cannot be locked here.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=str(path.parent), fix="choose another --output-dir"
        ) from error
    try:
        _acquire(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            raise UserError("was in use by another run until now", where=str(path.parent), fix="try again")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise UserError(
            f"in use by another run ({holder})",
            where=str(path.parent),
            fix="wait for it, stop it, or choose another --output-dir",
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot be locked: {error.strerror}",
            where=str(path.parent),
            fix="free space, or choose an --output-dir on a file system with file locks",
        ) from error
