"""Losses and scores on a screen: rows with their numbers whole at any width, and below them what they do not say."""

from __future__ import annotations

import pytest

from galore.cli.show.gluetable import show_losses, show_scores
from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.sweep.options import Trial
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


def run(method: str, seed: int, loss: float, *, earlier: bool) -> Outcome:
    loaded = load_recipe("demo", ["optim.learning_rate=0.01", f"train.seed={seed}"])
    trial = Trial(f"{method}-{seed}", method, method, loaded)
    return Outcome(trial, "done", 13_107_200, 2**20, 0, 60.0, (), ((9, loss),), earlier=earlier)


@pytest.mark.parametrize("columns", [200, 80])
def test_losses_are_a_table(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    runs = [run("galore:optim.rank=32", seed, 4.2 + seed / 10, earlier=False) for seed in (1, 2)]
    show_losses(Sweep([*runs, run("full", 1, 4.5, earlier=True)], [], {}))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in lines)
    (first,) = (line for line in lines if line.startswith("galore:optim.rank=32"))
    assert [piece in first for piece in ("0.01", "4.3500", "13,107,200", "1.00 MiB", "1m00s", "2 of 2")] == [True] * 6
    assert any("4.3000–4.4000" in line for line in lines)
    assert any("± 0.0500" in line for line in lines)
    assert lines[-1] == "Of earlier calls into this folder: full at 0.01."
