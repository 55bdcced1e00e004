"""Where the best rate of a method lies, and the next one beyond an edge."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.compare.edge import beyond, place
from galore.trainer.sweep.compare.grid import grid
from galore.trainer.sweep.compare.standing import standings
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome, Sweep


def made(trial: Trial, loss: float | None, status: str = "done", earlier: bool = False) -> Outcome:
    return Outcome(trial, status, 9, 0, 0, 1.0, (), () if loss is None else ((9, loss),), earlier=earlier)


def tried(losses: dict[float, float | None], method: str = "full", status: str = "failed: nan") -> list[Outcome]:
    trials = grid("demo", [], method, ",".join(map(repr, losses)), "1,2")
    return [
        made(trial, losses[trial.learning_rate], "done" if losses[trial.learning_rate] else status) for trial in trials
    ]


def asked(runs: list[Outcome]) -> tuple[list[Trial], list[str]]:
    told: list[str] = []
    return beyond([run.trial for run in runs], Sweep(runs, [], {}), told.append), told


@pytest.mark.parametrize(
    ("losses", "where", "further"),
    [
        ({0.001: 5.0, 0.002: 4.0, 0.004: 4.5}, "inside", None),
        ({0.001: 5.0, 0.002: 4.0}, "highest", 0.004),
        ({0.001: 5.0, 0.002: 4.5, 0.003: 4.0}, "highest", 0.0045),
        ({0.001: 3.0, 0.002: 4.0, 0.008: 9.0}, "lowest", 0.0005),
        ({0.003: 5.0, 0.01: 4.0}, "highest", 0.0333),
        ({0.001: 5.0, 0.002: 4.0, 0.004: None}, "inside", None),  # which failed
        ({0.001: 4.0}, "only one", None),
    ],
)
def test_the_next_rate_is_as_far_as_the_neighbour(
    losses: dict[float, float | None], where: str, further: float
) -> None:
    runs = tried(losses)
    best, *_ = every = standings(runs)
    assert place(best, every) == where
    more, told = asked(runs)
    assert [trial.folder for trial in more] == (
        [] if further is None else [f"full-lr{further:g}-seed{n}" for n in (1, 2)]
    )
    assert {(trial.learning_rate, trial.label) for trial in more} == ({(further, "full")} if further else set())
    assert len(told) == bool(further)


def test_a_rate_that_is_not_done_was_not_tried() -> None:
    runs = tried({0.001: 5.0, 0.002: 4.0, 0.004: None}, status="not finished")
    assert place(standings(runs)[0], standings(runs)) == "highest"


def test_each_method_has_its_own_edges_and_those_of_earlier_calls_are_left_alone() -> None:
    runs = [*tried({0.001: 5.0, 0.002: 4.0}, "full"), *tried({0.001: 5.0, 0.002: 4.0, 0.004: 4.1}, "galore")]
    assert {trial.label for trial in asked(runs)[0]} == {"full"}
    assert beyond([run.trial for run in runs[4:]], Sweep(runs, [], {}), str) == []


@pytest.mark.parametrize(("there", "further"), [(0.004, [0.004]), (0.003, []), (0.0005, [0.004])])
def test_the_same_call_finds_its_rates_again_and_those_of_others_are_enough(there: float, further: list[float]) -> None:
    asked_for = tried({0.001: 5.0, 0.002: 4.0})
    runs = [*asked_for, *tried({there: 3.0, 0.1: None}, status="not finished")]
    found = beyond([run.trial for run in asked_for], Sweep(runs, [], {}), str)
    assert sorted({trial.learning_rate for trial in found}) == further


def test_a_rate_in_the_name_of_a_method_stays_there() -> None:
    loaded = load_recipe("demo", ["optim.learning_rate=0.002"])
    label = "galore:optim.head_learning_rate=1e-3"
    low = load_recipe("demo", ["optim.learning_rate=0.001"])
    runs = [
        made(Trial("galore_optim.head_learning_rate_1e-3-lr0.002", "galore", label, loaded), 4.0),
        made(Trial("galore_optim.head_learning_rate_1e-3-lr0.001", "galore", label, low), 5.0),
    ]
    assert [trial.folder for trial in asked(runs)[0]] == ["galore_optim.head_learning_rate_1e-3-lr0.004"]
