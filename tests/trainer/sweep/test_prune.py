"""Median stopping: what is hopeless, and that the best so far never is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from galore.trainer.record.callbacks import StopTraining
from galore.trainer.sweep.prune import Pruner, hopeless, losses

FALLING = {10: 5.0, 20: 4.0, 30: 3.0}  # 4.5 on average up to step 20
SLOWER = {10: 6.0, 20: 5.0, 30: 4.0}  # 5.5
OTHERS = [FALLING, SLOWER]  # whose median there is 5.0


@pytest.mark.parametrize(
    ("own", "step", "ends"),
    [
        ({10: 5.6}, 10, True),
        ({10: 5.5}, 10, False),  # no worse than the median
        ({10: 9.0, 20: 4.9}, 20, False),  # its lowest counts, not its average
        ({10: 4.9, 20: 9.0}, 20, False),
        ({10: 5.2, 20: 5.1, 30: 1.0}, 20, True),  # what comes later is not known
        ({10: 9.0, 15: 9.0}, 15, False),  # nobody was scored there
        ({10: math.inf}, 10, True),
        ({10: 9.0, 20: 3.9}, 20, False),  # lower than all of them
    ],
)
def test_the_lowest_so_far_is_held_against_the_median_of_averages(own: dict[int, float], step: int, ends: bool) -> None:
    assert bool(hopeless(own, OTHERS, step)) is ends


def test_one_other_run_is_too_few_and_so_are_those_that_ended_before() -> None:
    assert not hopeless({10: 99.0}, [FALLING], 10)
    assert not hopeless({20: 99.0}, [FALLING, {10: 1.0}], 20)
    assert "5.0000 (median of means)" in hopeless({20: 99.0}, OTHERS, 20)


def test_others_that_diverged_end_nobody() -> None:
    assert not hopeless({10: 9.0}, [{10: math.inf}, {10: math.inf}], 10)
    assert not hopeless({10: math.inf}, [{10: math.inf}, {10: math.inf}], 10)


def test_a_run_asks_to_stop_after_an_evaluation_and_never_at_its_end() -> None:
    watch = Pruner(OTHERS, {10: 5.4})
    watch.on_start({}, 30)
    with pytest.raises(StopTraining, match="pruned, held-out loss 5"):
        watch.on_evaluate({"step": 20, "loss_nats": None})
    assert watch.why.startswith("after step 20: held-out loss 5.4000 at best")
    last = Pruner(OTHERS, {})
    last.on_start({}, 30)
    last.on_evaluate({"step": 30, "loss_nats": 99.0})
    assert last.why == ""


def test_losses_are_those_of_the_evaluations_after_the_start(tmp_path: Path) -> None:
    rows = ['{"kind": "eval", "step": 0, "loss_nats": 9}', '{"kind": "train", "step": 1, "loss_nats": 8}',
            '{"kind": "eval", "step": 2, "loss_nats": 7}', '{"kind": "eval", "step": 4, "loss_nats": null}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    assert losses(tmp_path) == {2: 7.0, 4: math.inf}
    assert losses(tmp_path / "absent") == {}
