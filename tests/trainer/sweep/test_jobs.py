"""Runs one after the other: what one of them meets, and whether the next begins."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import Interrupted, RunFailed
from galore.trainer.machine.signals import StopOnSignal
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir
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


def ends(watch: Any) -> None:
    """A run that comes to its end."""


def fails(watch: Any) -> None:
    raise RunFailed("the loss is nan")


def is_pruned(watch: Any) -> None:
    watch.why = "after step 2"
    raise Interrupted("by Pruner")


@pytest.mark.parametrize("run", [ends, fails, is_pruned])
@pytest.mark.parametrize("signalled", [True, False])
def test_a_signal_stops_the_sweep_however_the_run_ends_that_it_came_in(
    run: Callable[[Any], None], signalled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, written = list[str](), list[Sweep]()

    def run_training(loaded: Any, directory: Path, resume: Any, console: Any, progress: Any, callbacks: Any) -> None:
        begun.append(directory.name)
        directory.mkdir()
        RunDir(directory).write_facts({})
        with StopOnSignal(str):
            if signalled:
                os.kill(os.getpid(), signal.SIGINT)
            run(callbacks._members[0])

    monkeypatch.setattr(jobs, "run_training", run_training)
    loaded = load_recipe("demo", [])
    trials = [Trial(name, "galore", "galore", loaded) for name in ("a", "b")]
    show = jobs.Show(lambda loaded: Any, lambda *progress: None, str)  # type: ignore[arg-type, return-value]
    if signalled:
        with pytest.raises(Interrupted, match="by SIGINT at the end of a\n  → go on"):
            jobs.run_trials(trials, [], tmp_path, show, written.append, "go on", prune=True)
        assert begun == ["a"]
    else:
        jobs.run_trials(trials, [], tmp_path, show, written.append, "go on", prune=True)
        assert begun == ["a"] if run is is_pruned else ["a", "b"]
    assert written[-1].compared[0].status == {
        ends: "not finished",
        fails: "failed: the loss is nan",
        is_pruned: "pruned after step 2",
    }[run]  # fmt: skip
