"""A finished, interrupted or running run as its directory tells it: columns of numbers, evaluations, events, facts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from pathlib import Path
from types import NoneType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from galore.trainer.common.reading import read_bounded
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.row import TRAIN, EvalRow, EventRow, json_types
from galore.trainer.record.rundir import RunDir
from galore.trainer.tasks.glue import TASKS

Column = NDArray[np.float64]
COLUMNS = tuple(name for name, column in TRAIN.items() if column.series)
TYPES = json_types(EvalRow)


@dataclass(frozen=True)
class History:
    """`train` and `memory` (by category, bytes) have one entry per step, NaN where a row does not tell.

    The column `loss_nats` holds squared errors where that is what the run made small; `loss_unit` says which.
    """

    train: dict[str, Column]
    memory: dict[str, Column]
    evaluations: list[EvalRow]
    events: list[EventRow]
    facts: dict[str, Any]
    recipe: str

    @classmethod
    def read(cls, run_dir: RunDir) -> Self:
        """Whatever is there; what is missing or unreadable is left out."""
        numbers, count = array("d"), 0
        memory: dict[str, array[float]] = {}
        others: dict[str, list[Any]] = {"eval": [], "event": []}
        for row in filter(_is_sound, read_rows(run_dir.metrics)):
            if row.get("kind") == "train":
                row.setdefault("loss_nats", row.get("squared_error"))
                numbers.extend(_number(row.get(name)) for name in COLUMNS)
                parts = row.get("memory_by_category_bytes")
                for name, value in parts.items() if isinstance(parts, Mapping) else ():
                    _set(memory.setdefault(name, array("d")), count, _number(value))
                count += 1
            elif row.get("kind") in others:
                others[row["kind"]].append(row)
        table = np.array(numbers, dtype=np.float64).reshape(count, len(COLUMNS))
        recipe = _text(run_dir.recipe)
        train = dict(zip(COLUMNS, table.T, strict=True))
        parts_held = {name: _column(column, count) for name, column in memory.items()}
        return cls(train, parts_held, others["eval"], others["event"], run_dir.read_facts(), recipe)

    @property
    def task(self) -> str | None:
        """The task of the run, if it has one."""
        known = next((row["task"] for row in self.evaluations if "task" in row), self.facts.get("task"))
        return known if isinstance(known, str) and known in TASKS else None

    @property
    def loss_unit(self) -> str:
        if self.task is None:
            return "nats per token"
        return "squared error" if TASKS[self.task].is_regression else "nats per example"

    @property
    def last_step(self) -> int:
        return int(self.train["step"][-1]) if len(self.train["step"]) else 0

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The first and last step of each stretch that no row tells of, before the last one that a row does."""
        steps = self.train["step"]
        told = np.concatenate(([0.0], np.unique(steps[np.isfinite(steps) & (steps >= 1)])))
        return [(int(told[at]) + 1, int(told[at + 1]) - 1) for at in np.flatnonzero(np.diff(told) > 1)]

    @property
    def lost_after(self) -> int | None:
        """The last step that is told of, where the run is finished and there were more; None where all are there."""
        final = self.facts.get("final")
        done = final.get("step") if isinstance(final, dict) and "finished" in self.facts else None
        return self.last_step if isinstance(done, int) and self.last_step < done else None

    @property
    def stopped_early(self) -> int | None:
        """The step after which evaluations brought nothing new, and the run ended before its last; else None."""
        known = self.facts.get("stopped_early")
        return known if isinstance(known, int) else None

    @property
    def total_steps(self) -> int:
        known = self.facts.get("total_steps")
        return known if isinstance(known, int) and known > 0 else self.last_step

    @property
    def wall_seconds(self) -> float | None:
        """Seconds from the first start to the end, pauses between resumptions included."""
        try:
            started, finished = (datetime.fromisoformat(self.facts[key]) for key in ("started", "finished"))
        except (KeyError, TypeError, ValueError):
            return None
        return (finished - started).total_seconds()

    def median(self, name: str) -> float | None:
        """Median of a column over the steps that tell it."""
        known = self.train[name][np.isfinite(self.train[name])]
        return float(np.median(known)) if len(known) else None

    def total(self, name: str) -> float:
        """Sum of a column."""
        return float(np.nansum(self.train[name]))

    @property
    def optimizer_bytes(self) -> int:
        """Moments and projectors at their most; 0 where no row tells them."""
        held = [self.memory[name] for name in ("optimizer_states", "projectors") if name in self.memory]
        return sum(map(most, held))

    def memory_parts(self) -> dict[str, Column]:
        """What the peak consists of, per step, bytes; on a CPU the peak is the process's, so the rest is its ground."""
        parts = {name: np.nan_to_num(column) for name, column in self.memory.items() if np.nansum(column) > 0}
        peak = np.nan_to_num(self.train["memory_peak_bytes"])
        ground = np.maximum(peak - sum(parts.values()), 0)
        if parts and (ground > 0.01 * peak).any():
            return {"interpreter_and_libraries": ground, **parts}
        return parts

    def resumed_steps(self) -> list[int]:
        """How many steps were finished each time the run was resumed."""
        resumes = self.facts.get("resumes") or []
        return [int(item["step"]) for item in resumes if isinstance(item, dict) and "step" in item]


def most(column: Column) -> int:
    """The largest number of a column, whole; 0 where no row tells one."""
    return int(np.max(column[np.isfinite(column)], initial=0))


def _text(path: Path) -> str:
    try:
        return read_bounded(path).decode(errors="replace")
    except OSError:
        return ""


def _is_sound(row: Mapping[str, Any]) -> bool:
    """Whether what a report words is of the type it is written with; a row that was damaged since is left out."""
    known = all(isinstance(row.get(name), (*kind, NoneType)) for name, kind in TYPES.items())
    return known and all(
        isinstance(each, Mapping) and all(isinstance(value, float | int) for value in each.values())
        for each in (row.get("scores") or {}).values()
    )


def _set(column: array[float], index: int, value: float) -> None:
    """Append `value` as number `index`; those that are missing before it are NaN."""
    column.extend(repeat(math.nan, index - len(column)))
    column.append(value)


def _column(column: array[float], length: int) -> Column:
    column.extend(repeat(math.nan, length - len(column)))
    return np.array(column, dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
