"""Which checkpoint of a run is meant: the newest good one, the best by held-out loss, or that of a step."""

from __future__ import annotations

import re
from pathlib import Path

from galore.trainer.checkpoint.checkpoint import Checkpoint, Skipped, newest_verified, told, verified
from galore.trainer.checkpoint.manifest import Damaged
from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.errors import UserError
from galore.trainer.record.heldout import HeldOut
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.rundir import RunDir

NEWEST, BEST = "newest", "best"
NOT_KEPT = "its held-out loss was lower, and it was not kept: train.save_best: true keeps it"
STEP = re.compile(r"^(?:step-)?0*(\d{1,18})$")


def choose(run: RunDir, asked: str = NEWEST) -> tuple[Checkpoint, list[Skipped]]:
    """A verified checkpoint of `run`, and what was passed over.

    Args:
        asked: `newest`, `best`, or a step, alone or as its folder is called.

    Raises:
        UserError: there is none, or that of the step is damaged.
    """
    if asked == NEWEST:
        return _newest(run)
    if asked == BEST:
        return _best(run)
    step = _step(run, asked)
    try:
        return verified(run.checkpoints, step), []
    except Damaged as damage:
        raise UserError(
            f"step-{step:08d} is damaged: {damage}", where=str(run.checkpoints), fix=f"name another: {_kept(run)}"
        ) from None


def _newest(run: RunDir) -> tuple[Checkpoint, list[Skipped]]:
    checkpoint, skipped = newest_verified(run.checkpoints)
    if checkpoint is not None:
        return checkpoint, skipped
    reasons = "".join(f"; {line}" for line in told(skipped))
    if reasons:
        fix = "restore them from a copy, or train anew in another --output-dir: --resume takes none of them"
        raise UserError(f"holds no good checkpoint{reasons}", where=str(run.root), fix=fix)
    raise UserError("holds no checkpoint yet", where=str(run.root), fix="train on with --resume")


def _best(run: RunDir) -> tuple[Checkpoint, list[Skipped]]:
    """The checkpoint of the lowest held-out loss of those that are good; that it is damaged, or not kept, is told."""
    ranked, kept = HeldOut.of(read_rows(run.metrics)).ranked(), _steps(run)
    passed = [Skipped(_folder(run, step), NOT_KEPT) for step in ranked[:1] if step not in kept]
    damaged = list[Skipped]()
    for step in (each for each in ranked if each in kept):
        try:
            return verified(run.checkpoints, step), passed + damaged
        except Damaged as damage:
            damaged.append(Skipped(_folder(run, step), f"its held-out loss was lower, and it is damaged: {damage}"))
    raise UserError(
        f"no {'good ' * bool(damaged)}checkpoint of it was scored on held-out data"
        + "".join(f"; {line}" for line in told(damaged)),
        where=str(run.root),
        fix=f"name a step: {_kept(run)}; train.save_best: true keeps the best of a run",
    )


def _step(run: RunDir, asked: str) -> int:
    found = STEP.match(asked)
    if found is None:
        raise UserError(
            f"there is no checkpoint {asked!r}",
            where="--checkpoint",
            fix=f"write {NEWEST}, {BEST} or a step: {_kept(run)}",
        )
    if int(found[1]) not in _steps(run):
        raise UserError(f"there is no checkpoint of step {found[1]}", where=str(run.checkpoints), fix=_kept(run))
    return int(found[1])


def _steps(run: RunDir) -> list[int]:
    return sorted({step for step, _ in step_directories(run.checkpoints)})


def _folder(run: RunDir, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}"


def _kept(run: RunDir) -> str:
    steps = _steps(run)
    return f"there are {', '.join(map(str, steps))}" if steps else "there are none"
