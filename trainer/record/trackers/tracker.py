"""What every tracker is and is told, and the values of a row under our names and those of other trainers."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from galore.trainer.common.reading import read_bounded
from galore.trainer.recipe.schema.train import LogSection
from galore.trainer.record.metrics import End
from galore.trainer.record.row import Row, loss_of
from galore.trainer.record.rundir import RunDir

Values = dict[str, Any]
PROJECT = "galore"


class Tracker(Protocol):
    """Takes the values of a row. It may raise: `guarded.Guarded` stands before it."""

    def log(self, step: int, values: Values) -> None: ...
    def close(self, end: End) -> None: ...


@dataclass(frozen=True)
class Start:
    """The run that a tracker begins with.

    Args:
        config: the resolved recipe, JSON.
        step: optimizer steps that are done already; 0 for a run that starts.
        tell: told where the numbers go, and at the end what is left to do.
    """

    log: LogSection
    config: dict[str, Any]
    run_dir: RunDir
    step: int
    tell: Callable[[str], None]

    @property
    def name(self) -> str:
        """The run's name where neither recipe nor environment has one."""
        return self.run_dir.root.resolve().name

    def identity(self, tracker: str, make: Callable[[], str] = lambda: uuid.uuid4().hex[:12]) -> str:
        """The run's id at `tracker`, made once and kept in its directory, so that a resumed run goes on there."""
        file = self.run_dir.tracker(tracker)
        if file.is_file():
            return str(json.loads(read_bounded(file))["id"])
        made = make()
        self.run_dir.replace(file, json.dumps({"id": made}) + "\n")
        return made


def values_of(row: Row, steps_per_epoch: float | None) -> Values:
    """What is known in a row, under `train/…` and `eval/…`; loss, epoch and step under the usual names, too.

    Args:
        steps_per_epoch: None where an epoch has no end, as of a stream.
    """
    told = {name: value for name, value in row.items() if name not in ("kind", "step")}
    known = {name: value for name, value in _flat(row["kind"], told) if value is not None}
    loss = loss_of(row)
    known |= {f"{row['kind']}/loss": loss} if loss is not None else {}
    known["train/global_step"] = row["step"]
    return known | ({"train/epoch": row["step"] / steps_per_epoch} if steps_per_epoch else {})


def numbers(values: Values) -> dict[str, float]:
    """The values that a curve can show."""
    known = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """("train/loss_nats", 2.5), ("eval/scores/validation/accuracy", 0.7) …, however deep a row is."""
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from _flat(f"{name}/{inner}", each)
    else:
        yield name, value
