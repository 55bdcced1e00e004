"""What is in a file, as a number: content decides what is cached, not names or dates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from galore.trainer.common.durable import make_directory, remove, replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.common.lock import awaited
from galore.trainer.common.reading import open_regular, read_bounded
from galore.trainer.data.batch import Progress
from galore.trainer.data.tokens.cache import disk_space, fingerprint

CHUNK_BYTES = 1 << 24


def file_digests(paths: Sequence[Path], root: Path, progress: Progress) -> list[str]:
    """SHA-256 of each file's content, remembered under `root` for as long as size, time and inode stay the same.

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
