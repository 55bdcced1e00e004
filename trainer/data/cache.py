"""The cache directory: entries that appear whole or not at all, whoever else is writing them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from galore.trainer.data.batch import Progress
from galore.trainer.errors import RunFailed, UserError, system_error
from galore.trainer.reading import user_path

LOCK_POLL_SECONDS = 0.2


def cache_root(cache_dir: str | None, base_dir: Path) -> Path:
    """`data.cache_dir`, else $GALORE_CACHE, else ~/.cache/galore; created.

    Raises:
        UserError: it cannot be created or written.
    """
    default = os.environ.get("GALORE_CACHE") or "~/.cache/galore"
    root = base_dir / user_path(cache_dir or default)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be created ({error.strerror})", where=str(root), fix="set data.cache_dir") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError("cannot be written", where=str(root), fix="set data.cache_dir, or $GALORE_CACHE")
    return root


def fingerprint(value: Any) -> str:
    """128 bits, in hexadecimal, that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def entry(path: Path, build: Callable[[Path], None], intact: Callable[[Path], bool], progress: Progress) -> Path:
    """The directory `path`, built by `build(temporary directory)` unless it is there and `intact`.

    A second process that wants the same entry waits for the first. An interrupted build leaves nothing but a
    temporary directory, which the next one removes.

    Raises:
        RunFailed: the disk is full.
    """
    if path.is_dir() and intact(path):
        return path
    with disk_space(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock"), progress):
            if not (path.is_dir() and intact(path)):
                _build(path, build)
    return path


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """A full disk, or a used-up quota, becomes RunFailed, whichever library tells of it."""
    try:
        yield
    except Exception as error:
        refused = system_error(error)
        if refused is None or refused.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fix = "free some space, or set data.cache_dir to another disk"
        raise RunFailed("no space left for the tokenised data", where=str(folder), fix=fix) from error


def _build(path: Path, build: Callable[[Path], None]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    for leftover in (temporary, path):  # of a killed build, or damaged
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        build(temporary)
        sync_directory(temporary)
        temporary.rename(path)
        sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress(0, 0, "waiting for another process that prepares the same data")
                time.sleep(LOCK_POLL_SECONDS)
            except OSError as error:
                fix = "set data.cache_dir to a folder on a file system with file locks"
                raise RunFailed(f"cannot be locked: {error.strerror}", where=str(path), fix=fix) from error
        yield  # closing the file releases the lock, and so does the death of the process


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a small file at once, durably."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
