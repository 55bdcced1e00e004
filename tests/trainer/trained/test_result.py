"""What is asked of a run that is not there, or has done nothing, is answered; the rest is in tests/galore."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.trained.result import TrainedRun


def test_a_run_that_has_done_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    run = TrainedRun(tmp_path)
    assert os.fspath(run) == str(tmp_path)
    assert (run.rows, run.final, run.train_loss, run.checkpoint) == ([], {}, None, None)


def test_what_it_came_to_is_told_of_a_run_that_is_over(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    facts = {"final": {"step": 2, "loss_nats": 3.0}}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert TrainedRun(tmp_path).final == {}
    (tmp_path / "run.json").write_text(json.dumps(facts | {"finished": "2026-11-28T12:00:00"}))
    assert TrainedRun(tmp_path).final == facts["final"]


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        _ = TrainedRun(tmp_path / "none").rows
