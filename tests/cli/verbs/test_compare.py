"""`galore compare`: what is refused is refused before anything is trained or written, and where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.sweep.compare import run
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome, Sweep

ABSENT = ("demo", "data.source=local", "data.path=absent.txt", "train.device=cpu")  # no run of it would begin


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "galore,adamm"], "adamm"),
        (["--methods", "galore:optim.rang=3"], "optim.rang"),
        (["--learning-rates", "1e-3,fast"], "fast"),
        (["--learning-rates", "auto,0.1"], "auto"),
        (["--extend", "-1"], "--extend"),
        (["--extend", "many"], "--extend"),
        (["--seeds", "1,one"], "one"),
        (["--seeds", "5", "--runs", "5"], "--runs"),
        (["optim.rang=3"], "optim.rang"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(galore: Any, arguments: list[str], told: str) -> None:
    refused = galore("compare", *ABSENT, *arguments)
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("given", "root"), [([], "runs/compare-demo"), (["--output-dir", "here", "--resume"], "here")])
def test_the_folder_that_is_written_to(galore: Any, given: list[str], root: str) -> None:
    Path("runs").mkdir()
    Path(root).write_text("a file stands where the folder should")
    refused = galore("compare", *ABSENT, *given)
    assert refused.exit_code != 0
    assert root in refused.stderr
    assert Path(root).is_file()


@pytest.mark.parametrize(("failing", "code"), [((), 0), (("full",), 1), (("full", "lora"), 1)])
def test_a_method_of_which_every_run_failed_is_named_and_ends_it_with_1(
    galore: Any, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...], code: int
) -> None:
    def compare(base: Any, trials: Sequence[Trial], *how: Any) -> Sweep:
        states = ["failed: nan" if each.label in failing else "done" for each in trials]
        runs = [Outcome(each, state, 9, 0, 0, 1.0, (), ((9, 4.0),)) for each, state in zip(trials, states, strict=True)]
        return Sweep(runs, [], {})

    monkeypatch.setattr(run, "compare", compare)
    result = galore("compare", *ABSENT, "--methods", "full,lora")
    assert result.exit_code == code
    assert result.stderr == (f"failed: no run of {', '.join(failing)} has a result\n" if failing else "")
    assert "wrote runs/compare-demo/compare.md" in result.stdout


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        (["--methods", "galore,lora"], True),
        (["--methods", "galore,lora", "--learning-rates", "0.01"], False),
        (["--methods", "galore,lora:optim.learning_rate=0.1"], False),
        (["--methods", "galore", "--seeds", "1,2"], False),
    ],
)
def test_methods_that_share_one_rate_are_told_of(galore: Any, given: list[str], noted: bool) -> None:
    lines = galore("compare", *ABSENT, "optim.learning_rate=0.02", *given).stdout.splitlines()
    note = (
        "note: all methods have the recipe's learning rate 0.02; `--learning-rates auto` gives each a grid of its own"
    )
    assert (note in lines[:1]) is noted
