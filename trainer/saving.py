"""Where a run stands between two steps, and the checkpoint of it: of numbers only, and first of all room for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor

from galore.trainer.build import Run
from galore.trainer.checkpoint import checkpoint
from galore.trainer.checkpoint.diskspace import require_for_run
from galore.trainer.checkpoint.finite import agreed, not_finite, trained_tensors
from galore.trainer.checkpoint.parts.files import write_whole
from galore.trainer.checkpoint.rotation import first_undamaged, is_good, step_directories
from galore.trainer.checkpoint.state import Groups, capture, planned_bytes, random_state
from galore.trainer.checkpoint.tensors import some
from galore.trainer.common.errors import Ended, UserError
from galore.trainer.parallel.giving import giving
from galore.trainer.parallel.group import Group
from galore.trainer.parallel.writing import writing
from galore.trainer.record.rundir import RunDir
from galore.trainer.recorder import Recorder

Found = TypeVar("Found")


@dataclass(frozen=True)
class Standing:
    """A run after `step` whole steps, `clock` of which moved weights: data go on at `position`, dropout at `rng`.

    Taken before the next step, which may break off when it has read data and drawn numbers already.
    """

    step: int
    position: dict[str, Any]
    rng: dict[str, Tensor]
    clock: int

    @classmethod
    def of(cls, run: Run, step: int) -> Self:
        return cls(step, run.data.position(), random_state(), run.optimizer.clock)


def save(run: Run, recorder: Recorder, at: Standing, must: bool) -> None:
    """Write a checkpoint. One that the disk refuses is told, and the next save tries again, unless it `must`.

    Raises:
        Ended: weights or states are not finite: nothing is written, so that none pushes a finite checkpoint out.
        CheckpointFailed: the disk refused it, and it `must`.
    """
    ranks = run.group if run.group is not None and run.group.sharded else None
    if not run.writes and ranks is None:
        return
    best = best_step(run, recorder, at.step)
    if bad := agreed(not_finite(trained_tensors(run.model, run.optimizer)), run.optimizer):
        raise _poisoned(run, recorder, at.step, bad)
    tensors, state = capture(run.model, run.optimizer, at.rng, ranks)
    with sharing(tensors, ranks, run.directory.checkpoints, _in_parts(run)) as (given, write):
        if run.writes:
            _write(run, recorder, at, must, given, state, best, write)


@contextmanager
def sharing(
    tensors: Groups, ranks: Group | None, root: Path, in_parts: bool
) -> Iterator[tuple[Groups, checkpoint.Write]]:
    """What the first rank saves below `root`, and how it writes that, whole or `in_parts`: in a context in which the
    others do what it needs of tensors that lie in parts on `ranks`."""
    if ranks is None:
        yield tensors, write_whole
    elif in_parts:
        with writing(tensors, ranks, root) as write:
            yield tensors, write
    else:
        with giving(tensors, ranks) as given:
            yield given, write_whole


def _write(
    run: Run,
    recorder: Recorder,
    at: Standing,
    must: bool,
    tensors: Groups,
    state: dict[str, Any],
    best: int | None,
    write: checkpoint.Write,
) -> None:
    run.directory.require_own()
    state |= recorder.counters() | run.made_with | {"position": at.position}
    recorder.metrics.sync()
    try:
        keep = run.recipe.train.save_total_limit
        how = (keep, best, _beside(run), write, partial(recorder.event, at.step))
        folder = checkpoint.save(run.directory.checkpoints, at.step, tensors, state, *how)
    except checkpoint.CheckpointFailed as error:
        if must:
            raise
        recorder.event(at.step, f"{error}; training goes on, the next save tries again")
    else:
        recorder.tell(at.step, "on_save", at.step, folder)


def _beside(run: Run) -> list[Path]:
    """What makes a checkpoint a model folder. Adapters, factors, 8-bit weights and parts transformers does not read."""
    optim = run.recipe.optim
    if optim.method == "lora" or optim.weight_dtype is not None or _in_parts(run):
        return []
    return [run.directory.model, run.directory.tokenizer]


def _in_parts(run: Run) -> bool:
    return run.recipe.parallel.checkpoints == "parts"


def best_step(run: Run, recorder: Recorder, now: int) -> int | None:
    """The step of the lowest held-out loss that is `now`, or has a checkpoint which is not damaged.

    None where the recipe keeps none, and where another process writes and all do not act on it.
    """
    if not run.recipe.train.save_best:
        return None
    ranked = recorder.metrics.held_out.ranked() if run.writes else []
    return _as_the_first_sees(run, first_undamaged(run.directory.checkpoints, ranked, now))


def is_saved(run: Run, step: int) -> bool:
    """Whether a step has a good checkpoint: a damaged one that a resumption has passed over is none."""
    found = [path for of, path in step_directories(run.directory.checkpoints) if of == step]
    return _as_the_first_sees(run, any(map(is_good, found if run.writes else [])))


def _as_the_first_sees(run: Run, found: Found) -> Found:
    """What was found in the run's directory, where all ranks act on it."""
    return run.group.from_first(found) if run.group is not None and run.group.sharded else found


def newest(run: Run, step: int) -> str:
    """What there is to go on from after `step` steps. It is finite, as `save` writes nothing else; what a resumption
    passed over may lie above."""
    saved = [path for of, path in step_directories(run.directory.checkpoints) if of <= step]
    return f"{saved[0].name} is the last finite checkpoint" if saved else "no checkpoint was saved"


def _poisoned(run: Run, recorder: Recorder, step: int, names: list[str]) -> Ended:
    message = f"after step {step} {some(names)} hold values that are not finite: not saved; {newest(run, step)}"
    recorder.event(step, message)
    return Ended(
        message,
        where=str(run.directory.root),
        fix=f"{run.directory.go_on()} repeats the steps since; where they end here again, start anew with a lower "
        "optim.learning_rate or a higher optim.adam_epsilon",
    )


def require_places(directory: RunDir) -> None:
    """Raise UserError where what the run will write, at its end or before, has no place."""
    for folder in (directory.checkpoints, directory.plots):
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise UserError("is no folder that can be written to", where=str(folder), fix="move it away, or mend it")


def require_disk(run: Run) -> None:
    """Raise RunFailed where the last checkpoint would not fit."""
    settings, first, last = run.recipe.train, run.first_step, run.total_steps
    every = settings.save_steps or last
    saves = -(-last // every) - first // every if first < last else 0  # the last step is one of them
    saves, keep = (last - first if settings.save_best else saves), settings.save_total_limit + settings.save_best
    most = checkpoint.most_beside(run.directory.checkpoints, saves, keep)
    require_for_run(run.directory.root, most, checkpoint.bytes_for(planned_bytes(run.model, run.optimizer)))
