"""The cache directory: entries that appear whole or not at all, whoever else is writing them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from galore.trainer.checkpoint.manifest import Damaged
from galore.trainer.checkpoint.sealed import require_intact, seal
from galore.trainer.common.durable import Written, make_directory, remove, replace_file, sync_directory
from galore.trainer.common.errors import DISK_FULL, RunFailed, UserError, system_error
from galore.trainer.common.lock import awaited
from galore.trainer.common.reading import open_regular, read_bounded, user_path
from galore.trainer.data.batch import Progress

T = TypeVar("T")
REMEMBERED = 1 << 20  # bytes from which on a file's digest costs more to find than to remember
UNFINISHED = ".tmp"  # end of the name of an entry that is being built


def cache_root(cache_dir: str | None, base_dir: Path) -> Path:
    """`data.cache_dir`, else $GALORE_CACHE, else ~/.cache/galore; created.

    Raises:
        UserError: it cannot be created or written.
    """
    default = os.environ.get("GALORE_CACHE") or "~/.cache/galore"
    root = base_dir / user_path(cache_dir or default)
    try:
        make_directory(root)
    except OSError as error:
        raise UserError(
            f"cannot be created ({error.strerror})",
            where=str(root),
            fix="set data.cache_dir to a folder that you may write to",
        ) from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError("cannot be written", where=str(root), fix="set data.cache_dir, or $GALORE_CACHE")
    return root


def fingerprint(value: Any) -> str:
    """128 bits, in hexadecimal, that name a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def entry(
    path: Path,
    build: Callable[[Path], Mapping[str, Written]],
    load: Callable[[Path], T],
    progress: Progress,
    tell: Callable[[str], object],
) -> T:
    """What `load` makes of the directory `path`, which `build(temporary directory)` fills unless it is there already.

    An entry that is not byte for byte what was built, or does not load, is told and built anew. A second process that
    wants the same entry waits for the first. An interrupted build leaves nothing but a temporary directory, which the
    next build removes, of this entry or of another beside it.

    Args:
        build: returns size and hash of the files that it wrote and synced itself.

    Raises:
        RunFailed: the disk is full, or the entry is there and cannot be read just now.
    """
    with disk_space(path.parent):
        make_directory(path.parent)
        waiting = partial(progress, 0, 0, "waiting for another process that prepares the same data")
        with awaited(path.with_name(path.name + ".lock"), waiting):
            if path.is_dir():
                try:
                    return _opened(path, load)
                except Damaged as damage:
                    tell(f"{path} is not what was kept there ({damage}): it is made anew")
            _sweep(path.parent)
            _build(path, build)
            return load(path)


def _sweep(folder: Path) -> None:
    """Remove what killed builds left: nobody may ask for their entries again."""
    for private in folder.glob(f"*{UNFINISHED}"):
        lock = private.with_suffix(".lock")
        with suppress(OSError), awaited(lock, _at_work):
            remove(private)


def _at_work() -> None:
    raise BlockingIOError("another process builds this entry")


def _opened(path: Path, load: Callable[[Path], T]) -> T:
    try:
        require_intact(path)
    except OSError as error:
        fix = "make it readable and try again, or set data.cache_dir to another folder"
        raise RunFailed(f"cannot be read: {error.strerror}", where=str(error.filename or path), fix=fix) from error
    try:
        return load(path)
    except (OSError, RunFailed):
        raise
    except Exception as error:  # of another version of a library, which has types of its own
        raise Damaged(str(error) or type(error).__name__) from error


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """A full disk, or a used-up quota, becomes RunFailed, whichever library tells of it."""
    try:
        yield
    except Exception as error:
        refused = system_error(error)
        if refused is None or refused.errno not in DISK_FULL:
            raise
        fix = "free some space, or set data.cache_dir to another disk"
        raise RunFailed("no space left for the tokenized data", where=str(folder), fix=fix) from error


def _build(path: Path, build: Callable[[Path], Mapping[str, Written]]) -> None:
    private = path.with_name(path.name + UNFINISHED)
    for leftover in (private, path):  # of a killed build, or damaged
        remove(leftover)
    try:
        private.mkdir()
        seal(private, build(private))
        private.rename(path)
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            remove(private)
        raise


CHUNK_BYTES = 1 << 24


def file_digests(paths: Sequence[Path], root: Path, progress: Progress) -> list[str]:
    """SHA-256 of each file's content; a large one's is remembered under `root` while size, time and inode stay.

    Raises:
        UserError: a file cannot be read.
    """
    done, digests = 0, list[str]()
    total = sum(path.stat().st_size for path in paths)
    for path in paths:
        report = partial(_report, progress, done, total)
        try:
            digests.append(_remembered_digest(path, root / "digests", report))
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
        done += path.stat().st_size
    return digests


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "fingerprinting")


def _remembered_digest(path: Path, folder: Path, progress: Callable[[int], None]) -> str:
    stat = path.stat()
    if stat.st_size < REMEMBERED:
        return _digest(path, progress)
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    memo = folder / fingerprint(str(path.resolve()))
    try:
        known = json.loads(read_bounded(memo))
        if known["state"] == state and known["check"] == fingerprint([state, known["sha256"]]):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never seen, or damaged: read the file
    digest = _digest(path, progress)
    with disk_space(folder):
        make_directory(folder)
        with awaited(folder.with_name("digests.lock")):  # two processes may want the same file
            known = {"state": state, "sha256": digest, "check": fingerprint([state, digest])}
            if not memo.is_file():  # a pipe would be written to
                remove(memo)
            replace_file(memo, json.dumps(known))
    return digest


def _digest(path: Path, progress: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(done)
    return digest.hexdigest()
