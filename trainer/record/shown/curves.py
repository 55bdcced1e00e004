"""What the page of runs draws: each run's columns over steps, tokens and time, in as many points as a screen has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from galore.trainer.common.style import BLUE, GREEN, GREY, ORANGE, RED
from galore.trainer.memory.categories import COLORS
from galore.trainer.record.history import Column, History
from galore.trainer.record.row import TRAIN, loss_of

# Of a curve; a longer run has the means of as many stretches.
POINTS = 1_000
RUN_COLORS = (BLUE, ORANGE, GREEN, RED, "#7b4fa3", "#0e8a9a", "#a3672b", GREY)
# Column → what is said of its chart beside its unit.
DRAWN = {
    "loss_nats": {"key": "loss", "title": "Loss", "digits": 4, "held": True},
    "learning_rate": {"key": "learning_rate", "title": "Learning rate", "small": True, "zero": True},
    "grad_norm": {"key": "grad_norm", "title": "Gradient norm before clipping", "digits": 3, "zero": True},
    "tokens_per_second": {"key": "tokens_per_second", "title": "Throughput", "digits": 0, "zero": True},
}
MIB = 2**20


def curves(histories: Mapping[str, History]) -> dict[str, Any]:
    """The document of the page's script: `runs` with their numbers, and `charts` of which anything is known.

    Losses of one unit share a chart, which shows the runs of that `loss_unit`. Of one run memory is a stack of its
    parts, of several the peak of each. NaN is null.
    """
    one = next(iter(histories.values())) if len(histories) == 1 else None
    runs = [
        _run(name, each, RUN_COLORS[index % len(RUN_COLORS)], stacked=one is not None)
        for index, (name, each) in enumerate(histories.items())
    ]
    told = [each.loss_unit for each in histories.values() if np.isfinite(each.train["loss_nats"]).any()]
    units = {column: [about.unit] for column, about in TRAIN.items()} | {"loss_nats": list(dict.fromkeys(told))}
    charts = [{"unit": unit, **about} for column, about in DRAWN.items() for unit in units[column]]
    memory: dict[str, Any] = {"key": "memory", "title": "Memory", "unit": "MiB", "digits": 0, "zero": True}
    parts = list(one.memory_parts()) if one is not None else []
    if parts:
        memory["stack"] = [(name, COLORS.get(name, GREY)) for name in parts]
    known = {key for run in runs for key, values in run["y"].items() if any(value is not None for value in values)}
    return {"runs": runs, "charts": [each for each in (*charts, memory) if each["key"] in known]}


def is_reduced(histories: Mapping[str, History]) -> bool:
    """Whether any curve has fewer points than its run has steps."""
    return any(len(each.train["step"]) > POINTS for each in histories.values())


def _run(name: str, history: History, color: str, *, stacked: bool) -> dict[str, Any]:
    train = history.train
    seconds = np.nancumsum(train["step_seconds"])
    axes = {"step": train["step"], "tokens": train["tokens"], "time": seconds}
    parts = history.memory_parts() if stacked else {}
    values = {about["key"]: train[column] for column, about in DRAWN.items()}
    values |= {"memory": train["memory_peak_bytes"] / MIB, **{key: column / MIB for key, column in parts.items()}}
    ends = {"low": np.min, "high": np.max} if len(train["step"]) > POINTS else {}
    return {
        "name": name,
        "color": color,
        "loss_unit": history.loss_unit,
        "x": {key: _points(column, np.max) for key, column in axes.items()},
        "y": {str(key): _points(column, np.mean) for key, column in values.items()},
        **{name: _points(train["loss_nats"], end) for name, end in ends.items()},
        "held": _held(history, axes),
    }


def _held(history: History, axes: Mapping[str, Column]) -> dict[str, Any]:
    """Held-out losses, each where the run was then."""
    scored = [(row["step"], loss_of(row)) for row in history.evaluations]
    known = [(step, loss) for step, loss in scored if loss is not None]
    done = np.searchsorted(history.train["step"], [step for step, _ in known], side="right")
    places = {key: np.concatenate([[0.0], column])[done].tolist() for key, column in axes.items()}
    return {"x": {key: [_plain(each) for each in column] for key, column in places.items()}, "y": [y for _, y in known]}


def _points(column: Column, merged: Any) -> list[float | None]:
    """The column, or of a longer one what `merged` makes of the numbers in each of POINTS stretches."""
    if len(column) <= POINTS:
        return [_plain(each) for each in column.tolist()]
    stretches = np.array_split(column, POINTS)
    finite = (stretch[np.isfinite(stretch)] for stretch in stretches)
    return [_plain(float(merged(each))) if len(each) else None for each in finite]


def _plain(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
