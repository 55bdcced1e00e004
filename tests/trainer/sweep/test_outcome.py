"""What a run of a sweep came to, read from a directory that may lack what others have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import differing, outcome


@pytest.fixture
def trial() -> Trial:
    return Trial("own", "galore", "galore", load_recipe("demo"))


def _write(root: Path, trial: Trial, *rows: dict[str, Any], **facts: Any) -> None:
    folder = root / trial.folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"finished": "2026-01-01T00:00:00+00:00", **facts}))


def _step(step: int, **other: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss_nats": 2.0, "step_seconds": 0.5, **other}


WHOLE = {"tokens": 10, "memory_peak_bytes": 100, "memory_by_category_bytes": {"optimizer_states": 30, "projectors": 4}}


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("lacking", WHOLE)
def test_a_row_without_a_column_leaves_those_of_the_others(trial: Trial, tmp_path: Path, lacking: str, at: int) -> None:
    rows = [_step(step, **WHOLE) for step in (1, 2, 3)]
    del rows[at][lacking]
    _write(tmp_path, trial, *rows, {"kind": "eval", "step": 3, "loss_nats": 2.0})
    found = outcome(trial, tmp_path)
    assert (found.tokens, found.peak_bytes, found.optimizer_bytes) == (10, 100, 34)
    assert found.held_out == ((10, 2.0),)


def test_a_column_that_no_row_has_is_nothing(trial: Trial, tmp_path: Path) -> None:
    _write(tmp_path, trial, _step(1), _step(2, tokens="many", memory_peak_bytes=None))
    found = outcome(trial, tmp_path)
    assert (found.tokens, found.peak_bytes, found.optimizer_bytes) == (0, 0, 0)


def test_a_run_that_was_stopped_early_says_so(trial: Trial, tmp_path: Path) -> None:
    _write(tmp_path, trial, _step(1), stopped_early=1)
    assert outcome(trial, tmp_path).stopped_early == 1


def test_what_only_one_recipe_counts_is_told_by_the_setting_that_makes_it_count() -> None:
    paper, token = (load_recipe("demo", [f"eval.mode={mode}"]).recipe for mode in ("paper", "token"))
    assert differing(paper, token, lambda key: False) == ["eval.mode is paper, not token"]
    assert differing(token, paper, lambda key: False) == ["eval.mode is token, not paper"]
