"""The numbers behind the page of runs: as many points as a screen has, held-out losses where they were, no NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest

from galore.trainer.record.history import COLUMNS, History
from galore.trainer.record.shown import curves as module
from galore.trainer.record.shown.curves import curves, is_reduced


def history(steps: int, **columns: list[float]) -> History:
    train = {name: np.full(steps, np.nan) for name in COLUMNS}
    train["step"] = np.arange(1.0, steps + 1)
    train["tokens"], train["step_seconds"] = 10 * train["step"], np.full(steps, 0.5)
    train["loss_nats"] = 5 - train["step"] / steps
    train |= {name: np.array(values) for name, values in columns.items()}
    held = [{"kind": "eval", "step": 0, "loss_nats": 6.0}, {"kind": "eval", "step": steps, "loss_nats": 4.5}]
    return History(train, {}, held, [], {}, "")  # type: ignore[arg-type]


def test_held_out_losses_stand_where_the_run_was() -> None:
    [run] = curves({"a": history(4)})["runs"]
    assert run["held"] == {"x": {"step": [0, 4], "tokens": [0, 40], "time": [0, 2]}, "y": [6.0, 4.5]}
    assert run["x"]["time"] == [0.5, 1.0, 1.5, 2.0]


def test_a_long_curve_is_means_with_their_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", 2)
    long = {"a": history(6, loss_nats=[1, 2, 3, 7, np.nan, 9])}
    [run] = curves(long)["runs"]
    assert (run["y"]["loss"], run["low"], run["high"]) == ([2, 8], [1, 7], [3, 9])
    assert run["x"]["step"] == [3, 6]
    assert is_reduced(long)
    assert not is_reduced({"a": history(2)})


def test_a_chart_of_which_nothing_is_known_is_left_out() -> None:
    document = curves({"a": history(3), "b": history(3, grad_norm=[1.0, np.inf, 2.0])})
    assert [chart["key"] for chart in document["charts"]] == ["loss", "grad_norm"]
    assert document["runs"][1]["y"]["grad_norm"] == [1.0, None, 2.0]
    json.dumps(document, allow_nan=False)
    assert document["runs"][0]["color"] != document["runs"][1]["color"]


def test_losses_of_different_units_have_charts_of_their_own() -> None:
    def scored(task: str) -> History:
        found = history(2)
        found.evaluations[:] = [{"kind": "eval", "step": 2, "task": task}]  # type: ignore[typeddict-item]
        return found

    empty, begun = history(2, loss_nats=[np.nan, np.nan]), history(2)
    begun.facts["task"] = "stsb"
    runs = {"a": scored("stsb"), "b": scored("sst2"), "c": begun, "d": empty}
    document = curves(runs)
    charts = [chart["unit"] for chart in document["charts"] if chart["key"] == "loss"]
    assert charts == ["squared error", "nats per example"]
    of = [run["loss_unit"] for run in document["runs"]]
    assert of == ["squared error", "nats per example", "squared error", "nats per token"]


def test_memory_is_a_stack_of_one_run_and_a_peak_of_several() -> None:
    peaks = [3.0 * 2**20, 3.0 * 2**20]
    one = history(2, memory_peak_bytes=peaks)
    one = History(one.train, {"weights": np.array([1.0, 1.0]) * 2**20}, [], [], {}, "")
    [*_, memory] = curves({"a": one})["charts"]
    assert [name for name, _ in memory["stack"]] == ["interpreter_and_libraries", "weights"]
    both = curves({"a": one, "b": one})
    assert "stack" not in both["charts"][-1]
    assert both["runs"][0]["y"]["memory"] == [3.0, 3.0]


def test_a_run_without_a_step_has_an_empty_page() -> None:
    assert curves({"a": history(0)})["charts"] == []
