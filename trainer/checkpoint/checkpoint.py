"""Checkpoints: either whole and verified, or not there. Safetensors and JSON only.

    root/step-00000100/{GROUP.safetensors or its parts …, state.json, manifest.json, what `modelfolder` adds}

A checkpoint is written under another name, every file and then the directory is synced, and one rename makes it
visible. `manifest.json` holds size and SHA-256 of each file; a checkpoint that differs in one bit is never loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galore.trainer.checkpoint.diskspace import explain, require
from galore.trainer.checkpoint.manifest import NAME as MANIFEST
from galore.trainer.checkpoint.manifest import Damaged, Manifest, check_files, read_manifest, verify
from galore.trainer.checkpoint.modelfolder import INDEX, index, link
from galore.trainer.checkpoint.parts.files import BY_ITS_WRITER, Groups, Saved, files_by_group, write_whole
from galore.trainer.checkpoint.rotation import (
    REPLACED,
    UNFINISHED,
    discard,
    discard_all,
    rotate,
    step_directories,
    trust,
    unfinished,
    vacate,
)
from galore.trainer.checkpoint.tensorfile import tensor_bytes
from galore.trainer.common.durable import Written, sync_directory, write_file
from galore.trainer.common.errors import Ended, RunFailed
from galore.trainer.common.reading import read_bounded

STATE = "state.json"
MOST_TOLD = 5  # checkpoints that were passed over, in a message
_GROUP = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")

Write = Callable[[Path, Groups], dict[str, Written]]


class CheckpointFailed(Ended):
    """A checkpoint could not be saved. Older checkpoints are as they were, and nothing half-written is left."""


@dataclass(frozen=True)
class Skipped:
    """A directory that `newest_verified` did not take, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"skipped {self.path.name}: {self.reason}"


def told(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each of the first few, and one that counts the rest."""
    more = len(skipped) - MOST_TOLD
    return [*map(str, skipped[:MOST_TOLD]), *([f"skipped {more:,} more"] if more > 0 else [])]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `state` is the content of state.json, tensors are read on demand."""

    step: int
    path: Path
    state: dict[str, Any]
    files: Mapping[str, tuple[str, ...]]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.files)

    def load(self, group: str) -> Saved:
        """The tensors saved under `group`, on the CPU, with the dtypes and shapes they had, whoever saved them.

        Raises:
            RunFailed: there is no such group, or a file can no longer be read, which a tensor may tell as well.
        """
        if group not in self.files:
            what = f"the checkpoint has no {group!r}; it holds {', '.join(self.groups)}"
            raise RunFailed(what, where=str(self.path), fix=BY_ITS_WRITER)
        return Saved([self.path / name for name in self.files[group]])


def save(
    root: Path,
    step: int,
    tensors: Groups,
    state: Mapping[str, Any],
    keep: int,
    best: int | None = None,
    beside: Sequence[Path] = (),
    write: Write = write_whole,
    tell: Callable[[str], object] = warnings.warn,
) -> Path:
    """Write `root/step-<step>` atomically, then delete the oldest so that `keep` verified checkpoints remain.

    A step that is already there is left alone if identical, and replaced otherwise. Only one process may save into
    `root` at a time (the run directory's lock sees to it).

    Args:
        tensors: group name → tensor name → tensor, on any device; copied to the host one at a time.
        state: what JSON can hold; floats come back exactly.
        keep: number of checkpoints to keep, at least 2; `best` is the step of another one that stays.
        beside: folders with configuration and tokenizer, where the group `model` holds the weights as transformers
            names them: the checkpoint is then a model folder, too.
        write: writes the groups into a directory, and says what it wrote.
        tell: hears of older checkpoints that could not be deleted; this one is saved all the same.

    Raises:
        CheckpointFailed: full disk or any other OSError.
        TypeError, ValueError: `state` or a tensor cannot be stored, or `keep` < 2; nothing was written.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}; one damaged checkpoint must never be the only one")
    _check_groups(tensors)
    state_json = json.dumps(dict(state), indent=1).encode()
    target, temporary = root / f"step-{step:08d}", root / f"{UNFINISHED}step-{step:08d}"
    small = {STATE: state_json} | ({INDEX: index(tensors["model"])} if beside else {})
    needed = bytes_for(sum(map(tensor_bytes, tensors.values()))) + sum(map(len, small.values()))
    try:
        _make_room(root, needed, temporary)
        temporary.mkdir()
        manifest = _complete(temporary, step, write(temporary, tensors), small, beside)
        _publish(temporary, target, manifest)
    except OSError as error:
        reason, remedy = explain(error, root, needed)
        older = (
            "older checkpoints are untouched"
            if step_directories(root) or (os.path.lexists(root) and not root.is_dir())
            else "it begins anew, nothing was saved before"
        )
        raise CheckpointFailed(
            f"the checkpoint of step {step} was not saved: {reason}",
            where=str(root),
            fix=f"{remedy}, then --resume; {older}",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _rotate(root, keep, target, best, tell)
    return target


def bytes_for(tensors: int) -> int:
    """Room that a checkpoint of so many bytes of tensors takes."""
    return round(1.01 * tensors) + 16 * 1024


def most_beside(root: Path, saves: int, keep: int) -> int:
    """Checkpoints that `saves` more saves add to those in `root` at most: an older one goes after a newer one came."""
    held = len(step_directories(root))
    return max(min(held + saves, keep + 1) - held, min(saves, 1))


def newest_verified(root: Path, below: int | None = None) -> tuple[Checkpoint | None, list[Skipped]]:
    """The checkpoint with the highest step (`below` some step) whose bytes are as saved, and those passed over.

    Reads only, so it may look at a run that is still going on.
    """
    if not root.is_dir():
        return None, []
    skipped = [
        Skipped(path, "unfinished: killed while it was being saved or deleted; the next save or --resume removes it")
        for path in (unfinished(root) if below is None else ())
    ]
    for step, path in step_directories(root):
        if below is not None and step >= below:
            continue
        try:
            return _open(step, path), skipped
        except Damaged as damage:
            skipped.append(Skipped(path, str(damage)))
    return None, skipped


def verified(root: Path, step: int) -> Checkpoint:
    """The checkpoint of `step`, whose bytes are as saved.

    Raises:
        Damaged: none is, and why not. RunFailed: one cannot be read just now.
    """
    damage = Damaged("it is not there")
    for _, path in (each for each in step_directories(root) if each[0] == step):
        try:
            return _open(step, path)
        except Damaged as found:
            damage = found
    raise damage


def tidy(root: Path, keep: int, resumed: Path, best: int | None = None) -> None:
    """Finish what a save or a rotation left undone when it was killed; `resumed` stays. No later save may do so.

    Args:
        best: step of a checkpoint that stays beside the `keep` newest.

    Raises:
        OSError: something could not be deleted; the rest is.
    """
    try:
        discard_all(unfinished(root))
    finally:
        steps = [step for step, _ in step_directories(root)]
        if len(steps) > keep or len(set(steps)) < len(steps):
            rotate(root, keep, resumed, best)
        sync_directory(root)


def newest_state(root: Path) -> dict[str, Any]:
    """state.json of the newest checkpoint in which it is as it was saved; empty if there is none. Reads no tensor."""
    for _, path in step_directories(root):
        with suppress(Damaged), _readable(path):
            files = read_manifest(path).files
            if STATE in files:
                check_files(path, {STATE: files[STATE]})
                return dict(json.loads(read_bounded(path / STATE)))
    return {}


def _open(step: int, path: Path) -> Checkpoint:
    with _readable(path):
        return _opened(step, path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A context that raises RunFailed for what cannot be read: it may be the best checkpoint; none is taken instead.

    What is gone is Damaged: a run that goes on may delete a checkpoint while it is read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{Path(error.filename or path).name} is missing") from None
    except OSError as error:
        raise RunFailed(
            f"a checkpoint cannot be read: {error.strerror or error}; nothing was changed",
            where=str(error.filename or path),
            fix="make it readable and try again, or move that checkpoint away to go on from an older one",
        ) from error


def _opened(step: int, path: Path) -> Checkpoint:
    manifest = verify(path)
    if manifest.step != step:
        raise Damaged(f"{MANIFEST} is of step {manifest.step}: the directory was renamed")
    if STATE not in manifest.files:
        raise Damaged(f"{MANIFEST} does not list {STATE}")
    files = files_by_group(manifest.files)
    state = json.loads(read_bounded(path / STATE))
    trust(path, manifest)
    return Checkpoint(step, path, state, files)


def _check_groups(tensors: Groups) -> None:
    for group in tensors:
        if not _GROUP.match(group):
            raise ValueError(f"{group!r} cannot name a file of a checkpoint")


def _make_room(root: Path, needed: int, temporary: Path) -> None:
    """Remove what killed runs left, and refuse before the first byte if the disk cannot take `needed` bytes."""
    if not root.is_dir():
        root.mkdir()  # the run's directory is there, or it is no longer this run's
        sync_directory(root.parent)
    left = unfinished(root)
    with suppress(OSError):  # what cannot be deleted is in nobody's way
        discard_all(path for path in left if path != temporary)
    if temporary in left:
        discard(temporary)
    require(root, needed)


def _complete(
    directory: Path, step: int, files: Mapping[str, Written], small: Mapping[str, bytes], beside: Sequence[Path]
) -> Manifest:
    """Write what goes with the `files` of tensors, and sync their names."""
    more = {name: write_file(directory / name, [content]) for name, content in small.items()}
    manifest = Manifest.of(step, {**files, **more})
    write_file(directory / MANIFEST, [manifest.to_json()])
    link(directory, beside)
    sync_directory(directory)
    return manifest


def _publish(temporary: Path, target: Path, manifest: Manifest) -> None:
    """Give a complete checkpoint its name, unless the same one already bears it."""
    if os.path.lexists(target):
        try:
            if verify(target) == manifest:
                return
            _set_aside(target)
        except Damaged:
            vacate(target)
    temporary.rename(target)
    sync_directory(target.parent)
    trust(target, manifest)


def _set_aside(target: Path) -> None:
    """Keep a good checkpoint findable until its replacement has its name; the rotation then deletes it."""
    aside = target.with_name(f"{REPLACED}{target.name}")
    if os.path.lexists(aside):
        vacate(aside)
    target.rename(aside)


def _rotate(root: Path, keep: int, saved: Path, best: int | None, tell: Callable[[str], object]) -> None:
    try:
        rotate(root, keep, saved, best)
        sync_directory(root)
    except OSError as error:
        tell(
            f"{saved.name} was saved, but an older checkpoint could not be deleted: {error.filename or root}: "
            f"{error.strerror or error}; delete it by hand, or the disk fills up"
        )
