"""Which held-out loss of a run was the lowest, and how long ago."""

from __future__ import annotations

import math
from typing import Any

from galore.trainer.record.heldout import HeldOut


def evaluation(step: int, loss: float | None, name: str = "loss_nats") -> dict[str, Any]:
    return {"kind": "eval", "step": step, name: loss}


ROWS = [evaluation(0, 1.0), {"kind": "train", "step": 1, "loss_nats": 0.1}, evaluation(2, 3.0), evaluation(4, 2.0)]


def test_the_lowest_is_found_among_evaluations_after_the_start_and_the_first_of_equal_ones_counts() -> None:
    held_out = HeldOut.of([*ROWS, evaluation(6, 2.0), evaluation(8, math.nan), evaluation(10, None)])
    assert (held_out.best, held_out.since_best) == (4, 3)
    assert held_out.ranked() == [4, 6, 2]
    assert HeldOut.of(ROWS, until=3).best == 2


def test_a_step_that_is_scored_again_counts_once_and_squared_errors_are_losses() -> None:
    held_out = HeldOut.of([evaluation(2, 3.0, "squared_error"), evaluation(4, 5.0), evaluation(4, 5.0)])
    assert (held_out.best, held_out.since_best) == (2, 1)
    assert (HeldOut().best, HeldOut().since_best) == (None, 0)
    assert HeldOut.of([evaluation(1, math.inf), evaluation(2, None)]).since_best == 2
