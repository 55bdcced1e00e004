"""Runs that cannot become their method's best are stopped early  (median stopping: Golovin et al., KDD 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from galore.trainer.record.callbacks import Callback, StopTraining
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.row import EvalRow
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.options import Trial

LEAST = 2  # runs of the same method at other rates that have come as far
Losses = Mapping[int, float]  # held out, by step


class Pruner(Callback):
    """Stops a run after an evaluation at which the lowest held-out loss it ever had is above the median of what others
    had on average up to that step. The lowest of all never is.

    Args:
        others: the losses of the runs it is compared with.
        own: its losses so far.
    """

    def __init__(self, others: Sequence[Losses], own: Losses) -> None:
        self._others, self._own = others, dict(own)
        self._last = 0
        self.why = ""

    def on_start(self, header: dict[str, Any], total_steps: int) -> None:
        self._last = total_steps

    def on_evaluate(self, row: EvalRow) -> None:
        step = row["step"]
        self._own[step] = _loss(row)
        if step < self._last and (why := hopeless(self._own, self._others, step)):
            self.why = f"after step {step:,}: {why}"
            raise StopTraining(f"pruned, {why}")


def hopeless(own: Losses, others: Sequence[Losses], step: int) -> str:
    """Why a run with the losses `own` need not go on after `step`; "" where it may become the best of them."""
    averages = [mean(loss for at, loss in each.items() if at <= step) for each in others if step in each]
    lowest = min((loss for at, loss in own.items() if at <= step), default=math.inf)
    if len(averages) < LEAST or not lowest > median(averages):
        return ""
    others_had = f"{len(averages)} runs of its method had {median(averages):.4f} (median of means)"
    return f"held-out loss {lowest:.4f} at best, and {others_had}"


def pruner(trial: Trial, trials: Sequence[Trial], root: Path) -> Pruner:
    """The one of `trial`: it is compared with runs of its method at other rates, whatever their seeds."""
    others = [each for each in trials if each.label == trial.label and each.learning_rate != trial.learning_rate]
    return Pruner([losses(root / each.folder) for each in others], losses(root / trial.folder))


def pruned(trial: Trial, trials: Sequence[Trial], root: Path) -> str:
    """Why `trial` is not run: it was stopped early before, or its rate was with another seed; "" where it is."""
    if why := _told(root / trial.folder):
        return why
    same = (each for each in trials if (each.label, each.learning_rate) == (trial.label, trial.learning_rate))
    return next((f"with seed {each.seed}, {why}" for each in same if (why := _told(root / each.folder))), "")


def note(directory: Path, why: str) -> None:
    """Keep in run.json that the run there was stopped early."""
    run = RunDir(directory)
    run.write_facts(run.read_facts() | {"pruned": why})


def losses(directory: Path) -> dict[int, float]:
    """Held-out losses of a run by step; infinite where they were not finite, and without that of the start."""
    rows = read_rows(RunDir(directory).metrics)
    return {row["step"]: _loss(row) for row in rows if row.get("kind") == "eval" and row.get("step")}


def _told(directory: Path) -> str:
    return str(RunDir(directory).read_facts().get("pruned", ""))


def _loss(row: Mapping[str, Any]) -> float:
    loss = row.get("loss_nats")
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else math.inf
