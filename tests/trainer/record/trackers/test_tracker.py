"""Values have the names of this project, and those that other trainers' curves have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from galore.trainer.record.trackers.tracker import numbers, values_of


def test_the_names_of_other_trainers() -> None:
    row: Any = {"kind": "train", "step": 30, "loss_nats": 2.0, "learning_rate": 0.1, "grad_norm": 3.0, "skipped": False}
    assert values_of(row, 20.0) == {
        "train/loss_nats": 2.0,
        "train/loss": 2.0,
        "train/learning_rate": 0.1,
        "train/grad_norm": 3.0,
        "train/skipped": False,
        "train/global_step": 30,
        "train/epoch": 1.5,
    }


def test_scores_by_split_and_metric_are_curves() -> None:
    scores = {"validation_matched": {"accuracy": 0.75}, "validation_mismatched": {"accuracy": 0.5}}
    row: Any = {"kind": "eval", "step": 4, "task": "mnli", "scores": scores, "collapsed": None, "seconds": 1.5}
    assert numbers(values_of(row, None)) == {
        "eval/scores/validation_matched/accuracy": 0.75,
        "eval/scores/validation_mismatched/accuracy": 0.5,
        "eval/seconds": 1.5,
        "train/global_step": 4.0,
    }


@pytest.mark.parametrize(("row", "loss"), [({"loss_nats": 1.5}, 1.5), ({"squared_error": 0.25}, 0.25), ({}, None)])
def test_an_evaluation_has_its_loss_and_a_stream_no_epoch(row: dict[str, Any], loss: float | None) -> None:
    values = values_of({"kind": "eval", "step": 4, **row}, None)  # type: ignore[typeddict-item]
    assert values.get("eval/loss") == loss
    assert "train/epoch" not in values


def test_numbers_are_what_a_curve_can_show() -> None:
    assert numbers({"a": 1, "b": True, "c": "text", "d": math.nan, "e": 0.5}) == {"a": 1.0, "b": 1.0, "e": 0.5}
