"""The newest good checkpoint, the best, or the one of a step; and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from galore.trainer.checkpoint import checkpoint
from galore.trainer.common.errors import UserError
from galore.trainer.record.rundir import RunDir
from galore.trainer.trained.choose import choose

TENSORS = {"model": {"w": torch.arange(4.0)}}


def evaluated(run: RunDir, losses: dict[int, float]) -> None:
    rows: list[dict[str, Any]] = [{"kind": "eval", "step": step, "loss_nats": loss} for step, loss in losses.items()]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Checkpoints of steps 2, 4 and 6, of which 4 was scored best; step 3 was better, and is gone."""
    directory = RunDir(tmp_path)
    for step in (2, 4, 6):
        checkpoint.save(directory.checkpoints, step, TENSORS, {}, keep=9)
    evaluated(directory, {2: 3.0, 3: 1.0, 4: 2.0, 6: 4.0})
    return directory


@pytest.mark.parametrize(
    ("asked", "step"), [("newest", 6), ("best", 4), ("2", 2), ("step-00000004", 4), ("00000006", 6)]
)
def test_the_one_that_is_asked_for(run: RunDir, asked: str, step: int) -> None:
    assert choose(run, asked)[0].step == step


def test_a_better_one_that_is_gone_is_told(run: RunDir) -> None:
    (told,) = choose(run, "best")[1]
    assert str(told).startswith("skipped step-00000003: its held-out loss was lower, and it was not kept")
    evaluated(run, {4: 2.0, 6: 4.0})
    assert choose(run, "best")[1] == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("5", "there is no checkpoint of step 5\n.*there are 2, 4, 6"),
        ("last", "no checkpoint 'last'\n.*write newest, best or a step: there are 2, 4, 6"),
        ("-1", "no checkpoint '-1'"),
    ],
)
def test_one_that_is_not_there_is_told_with_those_that_are(run: RunDir, asked: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        choose(run, asked)


def test_a_damaged_step_that_is_named_is_not_replaced_by_another(run: RunDir) -> None:
    (run.checkpoints / "step-00000004" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"step-00000004 is damaged: .*\n.*name another: there are 2, 4, 6"):
        choose(run, "4")


def test_the_best_is_that_of_the_good_ones_and_lower_ones_are_told(run: RunDir) -> None:
    (run.checkpoints / "step-00000004" / "model.safetensors").write_bytes(b"no")
    found, passed = choose(run, "best")
    assert found.step == 2
    assert [each.path.name for each in passed] == ["step-00000003", "step-00000004"]
    assert "was lower, and it is damaged: model.safetensors has 2 bytes" in str(passed[1])
    evaluated(run, {4: 2.0})
    with pytest.raises(UserError, match=r"no good checkpoint of it was scored.*; skipped step-00000004: .*damaged"):
        choose(run, "best")


def test_without_scores_there_is_no_best(run: RunDir) -> None:
    evaluated(run, {})
    with pytest.raises(UserError, match="no checkpoint of it was scored"):
        choose(run, "best")


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    for asked in ("newest", "best", "2"):
        with pytest.raises(UserError):
            choose(RunDir(tmp_path), asked)
