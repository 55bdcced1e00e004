"""Locks that the kernel drops when their holder dies, however it dies: one process per run, or one after another."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from galore.trainer.common.errors import Taken, UserError

POLL_SECONDS = 0.2


class _Held(NamedTuple):
    descriptor: int
    folder: int  # that it was locked in, a descriptor: while one is open, no other folder has its inode


_held: dict[Path, _Held] = {}


def _let_go_in_child() -> None:
    """A forked worker would keep the lock of a killed parent alive: it must not own it."""
    for held in _held.values():
        _close(held)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive `flock` on the file `path`, which names the holder's pid and host.

    The file stays when the lock is released. Only the holder may delete it: who had opened it before is then refused,
    or two processes would lock two files of one name.

    Raises:
        UserError: another process holds it (which one) or deleted it just now, or it cannot be locked here.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if os.path.lexists(path) and not path.is_file():
            raise UserError("is no file, where the run has its lock", where=str(path), fix="move it away") from error
        raise UserError(
            f"cannot be written: {error.strerror}", where=str(path.parent), fix="choose another --output-dir"
        ) from error
    _hold(descriptor, path)
    try:
        yield
    finally:
        if path in _held:  # not in a forked child
            _close(_held.pop(path))


def _hold(descriptor: int, path: Path) -> None:
    try:
        _acquire(descriptor, path)
        _held[path] = _Held(descriptor, os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except BaseException:
        os.close(descriptor)
        raise


def _close(held: _Held) -> None:
    os.close(held.descriptor)
    os.close(held.folder)


def retake(path: Path) -> bool:
    """Lock a new file `path` where the one that this process locked was deleted, and nothing else: its folder has the
    name that it had, and nobody has begun there since. Returns whether that was so."""
    held = _held.get(path)
    if held is None or not is_same_folder(path):
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        _hold(descriptor, path)
    except (OSError, UserError):
        with suppress(OSError):
            path.unlink()
        return False
    _close(held)
    return True


def is_same_folder(path: Path) -> bool:
    """Whether the folder of `path` is still that in which this process locked it."""
    try:
        return path in _held and os.path.samestat(path.parent.stat(), os.fstat(_held[path].folder))
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of `path`. It is asked for as a reader and let go at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def is_lost(path: Path) -> bool:
    """Whether `path`, whose lock this process holds, is another file, or none: its folder was renamed or replaced."""
    if path not in _held:
        return False
    try:
        return not os.path.samestat(path.stat(), os.fstat(_held[path].descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return True


def present_name(path: Path) -> Path | None:
    """Where the file now lies that this process locked as `path`; None if it was deleted, or nothing tells."""
    try:
        found = Path(f"/proc/self/fd/{_held[path].descriptor}").readlink()
        return found if os.path.samestat(found.stat(), os.fstat(_held[path].descriptor)) else None
    except (OSError, KeyError):
        return None


@contextmanager
def awaited(path: Path, wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of the file `path` once every other process has let it go; `wait` is called while one has not.

    Raises:
        UserError: it cannot be locked here.
    """
    with path.open("ab+", buffering=0) as file:  # a pipe in its place, opened for both ways, is not waited for
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
                time.sleep(POLL_SECONDS)
            except OSError as error:
                fix = "set data.cache_dir, or $GALORE_CACHE, to a folder on a file system with file locks"
                raise UserError(f"cannot be locked: {error.strerror}", where=str(path), fix=fix) from error
        yield  # closing the file releases the lock, and so does the death of the process


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a directory itself, where the file system has such; nothing is written into it.

    Raises:
        UserError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process writes there", where=str(folder), fix="wait for it, or stop it") from None
        except OSError:
            pass  # a network's file system may lock files only
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Twice, since `is_held` may be asking just now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(POLL_SECONDS)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        _lock(descriptor)
        if not os.fstat(descriptor).st_nlink:
            raise UserError("was in use by another run until now", where=str(path.parent), fix="try again")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise Taken(
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
