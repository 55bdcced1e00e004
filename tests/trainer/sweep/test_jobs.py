from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep import jobs
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Sweep


def test_a_table_that_cannot_be_made_does_not_stop_the_runs_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(jobs, "run_training", lambda loaded, directory, *rest: done.append(directory.name))
    loaded, told = load_recipe("demo", []), list[str]()
    show, times = jobs.Show(lambda loaded: Any, lambda *progress: None, told.append), iter(range(9))

    def broken(found: Sweep) -> None:
        if next(times) < 2:
            raise ZeroDivisionError("no run is done")

    trials = [Trial(name, "galore", "galore", loaded) for name in ("a", "b")]
    assert jobs.run_trials(trials, [], tmp_path, show, broken, "go on")[1] == {}
    assert done == ["a", "b"]
    assert sum("ZeroDivisionError: no run is done" in text for text in told) == 2
