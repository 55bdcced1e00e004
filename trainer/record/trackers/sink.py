"""The trackers that `log.report_to` names, as one sink of the metrics. Whatever happens in them never stops a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import masked
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.metrics import End, Sink
from galore.trainer.record.row import Row
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.trackers.guarded import Guarded
from galore.trainer.record.trackers.mlflow import MlflowTracker
from galore.trainer.record.trackers.tensorboard import TensorBoardTracker
from galore.trainer.record.trackers.tracker import Start, Tracker, values_of
from galore.trainer.record.trackers.trackio import TrackioTracker
from galore.trainer.record.trackers.wandb import WandbTracker

TRACKERS: dict[str, Callable[[Any, Start], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "mlflow": MlflowTracker,
}  # by the module that each needs


def make_sink(
    recipe: Recipe,
    run_dir: RunDir,
    warn: Callable[[str], None] = print,
    *,
    step: int = 0,
    steps_per_epoch: float | None = None,
) -> Sink | None:
    """The sink to all trackers that `log.report_to` names, or None where it names none.

    Args:
        warn: told where numbers go, at the end what is left to do, and once of a tracker that fails.
        step: optimizer steps that are done already.

    Raises:
        UserError: a package is not installed, or a tracker refuses to begin (no login, no network).
    """
    start = Start(recipe.log, _without_secrets(recipe.model_dump(mode="json")), run_dir, step, warn)
    begun = list[Guarded]()
    try:
        for name in recipe.log.trackers:
            begun.append(Guarded(name, partial(_begin, name, start), warn))
    except BaseException:
        Trackers(begun, None).close("failed")
        raise
    return Trackers(begun, steps_per_epoch) if begun else None


def _without_secrets(value: Any) -> Any:
    """What leaves the machine of a recipe: every text in it without passwords in URLs and their like."""
    if isinstance(value, dict):
        return {name: _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return masked(value) if isinstance(value, str) else value


def _begin(name: str, start: Start) -> Tracker:
    module = require(name, f"report_to: {name}", "log.report_to", "take it out of log.report_to")
    try:
        return TRACKERS[name](module, start)
    except UserError:
        raise
    except Exception as error:
        what = f"{name} does not start: {error}"
        raise UserError(what, where="log.report_to", fix="mend that, or take it out of log.report_to") from error


class Trackers:
    """Hands the values of steps and evaluations to every tracker."""

    def __init__(self, trackers: Sequence[Guarded], steps_per_epoch: float | None) -> None:
        self._trackers, self._steps_per_epoch = trackers, steps_per_epoch

    def log(self, row: Row) -> None:
        if row.get("kind") in ("train", "eval"):
            values = values_of(row, self._steps_per_epoch)
            for tracker in self._trackers:
                tracker.log(row["step"], values)

    def close(self, end: End = "finished") -> None:
        for tracker in self._trackers:
            tracker.close(end)
