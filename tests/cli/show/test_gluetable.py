"""Scores on a screen: rows with their numbers whole at any width, alarms and what is missing below them."""

from __future__ import annotations

import pytest

from galore.cli.show.gluetable import show_scores
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.sweep.outcome import Outcome, Sweep


@pytest.mark.parametrize("columns", [200, 80, 60])
def test_scores_alarms_and_what_is_missing(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done, other = grid(None, [], "rte", "galore,full")
    scored = Outcome(done, "done", 9, 2**20, 2**30, 60.0, epochs=({"accuracy": 0.5321},), collapsed="one answer")
    show_scores(Sweep([scored, Outcome(other, "not finished", 0, 0, 0, 0.0)], [], {"old": "no recipe"}))
    shown = capsys.readouterr().out
    assert "53.21" in shown
    assert "galore-r4" in shown
    assert "…" not in shown
    assert all(len(line) <= columns for line in shown.splitlines())
    words = " ".join(shown.split())
    assert f"ALARM: {done.folder}: one answer" in words
    assert f"{other.folder}: not finished" in words
    assert "old: no recipe" in words
