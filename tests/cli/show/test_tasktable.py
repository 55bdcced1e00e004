"""Benchmarks in a table: a row for each score, with its error beside it."""

from __future__ import annotations

import pytest

from galore.cli.show.tasktable import show_scores
from galore.trainer.trained.harness import TaskScores


def test_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    scores = {"acc": 0.5, "acc_stderr": 0.25, "exact,strict": 0.125, "exact_stderr,strict": 0.0625, "sample_len": 9.0}
    show_scores(TaskScores({"t": scores, "group": {"acc": 1.0}}, {}, {"t": 5}, "here", None))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["task", "metric", "value", "standard", "error", "shots"],
        ["t", "acc", "0.5000", "0.2500", "5"],
        ["t", "exact,strict", "0.1250", "0.0625", "5"],
        ["group", "acc", "1.0000"],
    ]
