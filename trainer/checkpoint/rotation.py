"""Which checkpoints of a directory stay, and how the others leave without a trace of half of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from galore.trainer.checkpoint.manifest import NAME, Damaged, Manifest, verify

UNFINISHED = ".tmp-"
REPLACED = ".old-"  # a good checkpoint that is making way for another of its step; until then it counts
_STEP = re.compile(r"^(?:\.old-)?step-(\d{8,})$")

Stamp = tuple[tuple[str, int, int, int], ...]
_trusted: dict[Path, Stamp] = {}


def step_directories(root: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything named like a checkpoint, highest step first. No file time plays a part."""
    found = [(int(match[1]), path) for path in _entries(root) if (match := _STEP.match(path.name))]
    return sorted(found, reverse=True)


def unfinished(root: Path) -> list[Path]:
    """What a save or a rotation left behind when it was killed (or is still working on)."""
    return sorted(path for path in _entries(root) if path.name.startswith(UNFINISHED))


def rotate(root: Path, keep: int, saved: Path, best: int | None = None) -> None:
    """Delete all but `saved`, the newest other checkpoints that verify, `keep` in all, and the one of step `best`.

    Older ones are touched only once `keep` good ones are known, so a damaged checkpoint never pushes out a good one.

    Raises:
        OSError: an old checkpoint could not be deleted; the others are.
    """
    doomed = list[Path]()
    kept = {step for step, path in step_directories(root) if path == saved}
    for step, path in step_directories(root):
        if path == saved:
            continue
        if step in kept or (len(kept) >= keep and step != best):
            doomed.append(path)
        elif is_good(path):
            kept.add(step)
    discard_all(doomed)


def discard(path: Path) -> None:
    """Delete a directory (or link, or file): its name goes first and at once, its content after."""
    doomed = _retire(path)
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed)
    else:
        doomed.unlink()


def discard_all(paths: Iterable[Path]) -> None:
    """Delete each, whatever becomes of the others.

    Raises:
        OSError: the first that could not be deleted.
    """
    refused = list[OSError]()
    for path in paths:
        try:
            discard(path)
        except OSError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def vacate(path: Path) -> None:
    """Free a name; what of its content cannot be deleted just now is left to the next save."""
    doomed = _retire(path)
    with suppress(OSError):
        discard(doomed)


def _retire(path: Path) -> Path:
    """Free the name of a checkpoint; returns the one it now has, which is that of something unfinished."""
    if path.name.startswith(UNFINISHED):
        return path
    gone = path.with_name(f"{UNFINISHED}gone-{path.name}")
    names = chain([gone], (gone.with_name(f"{gone.name}.{number}") for number in count(1)))
    doomed = next(each for each in names if not os.path.lexists(each))
    path.rename(doomed)
    _trusted.pop(path, None)
    return doomed


def trust(path: Path, manifest: Manifest) -> None:
    """Remember that this process has just verified or written `path`, so that a rotation need not hash it again."""
    _trusted[path] = _stamp(path, manifest)


def is_good(path: Path) -> bool:
    """Whether a checkpoint verifies; one that this process has written or verified is not hashed again."""
    try:
        _check(path)
    except (Damaged, OSError):
        return False
    return True


def first_undamaged(root: Path, steps: Iterable[int], known: int | None = None) -> int | None:
    """The first of `steps` that has a checkpoint which is not damaged, or is `known`; None where there is none."""
    there = step_directories(root)
    found = (step for step in steps if step == known or not all(_is_damaged(path) for of, path in there if of == step))
    return next(found, None)


def _is_damaged(path: Path) -> bool:
    """Whether a checkpoint is not as it was saved. One that cannot be read just now may be."""
    try:
        _check(path)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _check(path: Path) -> None:
    known = _trusted.get(path)
    if known is None or _stamp_of_names(path, [entry[0] for entry in known]) != known:
        trust(path, verify(path))


def _stamp(path: Path, manifest: Manifest) -> Stamp:
    return _stamp_of_names(path, [NAME, *manifest.files])


def _stamp_of_names(path: Path, names: list[str]) -> Stamp:
    stats = [(name, (path / name).lstat()) for name in names]
    return tuple((name, found.st_size, found.st_mtime_ns, found.st_ino) for name, found in stats)


def _entries(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [root / entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):  # nothing was saved yet
        return []
