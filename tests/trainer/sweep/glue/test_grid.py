"""Which runs are made of tasks, methods, rates and seeds, and with which recipe each."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.sweep.glue.grid import grid, task_of
from galore.trainer.tasks.glue import TASKS


def test_by_itself_it_is_the_recipes_task_and_method() -> None:
    (trial,) = grid(None, [], None, None)
    assert (task_of(trial), trial.method, trial.folder) == ("sst2", "galore", "sst2/galore-r4-lr1e-05-seed42")


def test_every_method_has_a_recipe_of_its_own() -> None:
    trials = grid(None, [], "cola", "galore,galore-8bit,frugal-rotate,lora,full")
    assert [trial.label for trial in trials] == ["galore-r4", "galore-8bit-r4", "frugal-rotate-r4", "lora-r8", "full"]
    assert [trial.learning_rate for trial in trials] == [3e-5, 3e-5, 2e-4, 4e-4, 2e-5]
    assert [trial.recipe.optim.state_dtype for trial in trials] == ["float32", "8bit", "float32", "float32", "float32"]
    assert {trial.recipe.train.global_batch_size for trial in trials} == {32}


def test_all_tasks_rates_and_seeds() -> None:
    trials = grid(None, ["train.seed=7"], "all", "galore,lora", "1e-4,2e-4", runs=3)
    assert len(trials) == 9 * 2 * 2 * 3 == len({trial.folder for trial in trials})
    assert list(dict.fromkeys(task_of(trial) for trial in trials)) == list(TASKS)
    assert {trial.seed for trial in trials} == {7, 8, 9}
    assert {trial.learning_rate for trial in trials} == {1e-4, 2e-4}


@pytest.mark.parametrize(
    ("seeds", "runs", "expected"),
    [
        (None, None, [7]),
        ("5", None, [5]),
        ("5,3", None, [5, 3]),
        ("4,4", None, [4]),
        (None, 1, [7]),
        (None, 3, [7, 8, 9]),
    ],
)
def test_seeds_are_named_or_counted(seeds: str | None, runs: int | None, expected: list[int]) -> None:
    trials = grid(None, ["train.seed=7"], "rte", "galore", seeds=seeds, runs=runs)
    assert [trial.seed for trial in trials] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two", "'two' is no seed"),
        ("-1", "'-1' is no seed"),
        ("", "names nothing between two commas"),
        ("1,", "names nothing between two commas"),
        ("1,x", "'x' is no seed"),
    ],
)
def test_what_is_no_seed(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        grid(None, [], "rte", "galore", seeds=text)
    assert caught.value.where == "--seeds"


def test_seeds_are_not_named_and_counted_both() -> None:
    with pytest.raises(UserError, match=r"^--runs: counts seeds, and --seeds names them\n.*leave one of them out$"):
        grid(None, [], "rte", "galore", seeds="5", runs=5)


def test_a_method_goes_into_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: roberta-glue\noptim: {learning_rate: 0.5}\n")
    full, lora = grid(str(file), [], "rte", "full,lora")
    assert (full.recipe.optim.method, lora.recipe.optim.method) == ("full", "lora")
    assert full.learning_rate == lora.learning_rate == 0.5


def test_each_method_has_a_grid_around_its_own_rate(tmp_path: Path) -> None:
    rates = {
        method: [each.learning_rate for each in grid(None, [], "sst2", method, "auto")] for method in ("full", "lora")
    }
    assert rates == {"full": [1e-5, 2e-5, 4e-5], "lora": [2.5e-4, 5e-4, 1e-3]}
    (tmp_path / "own.yaml").write_text("extends: roberta-glue-full\noptim: {learning_rate: 3.0e-5}\n")
    own = grid(str(tmp_path / "own.yaml"), [], "sst2", "lora", "auto")
    assert [each.learning_rate for each in own] == [1.5e-4, 3e-4, 6e-4]


def test_a_control_takes_nothing_over_from_a_recipe_of_galore(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: roberta-glue\noptim: {rank: 4, scale: 4, residual: frugal}\n")
    full, lora, galore = (
        trial.recipe.optim for trial in grid(str(file), ["data.max_length=64"], "rte", "full,lora,galore")
    )
    assert (full.effective_scale, full.residual, lora.residual) == (1.0, "none", "none")
    assert (galore.scale, galore.residual) == (None, "none")  # 4 was the scale of another kind of update


@pytest.mark.parametrize(
    ("tasks", "methods", "said"),
    [
        ("sst", None, "there is no task 'sst'"),
        ("sst2,", None, "names nothing between two commas"),
        ("rte", "galor", "there is no method 'galor'"),
    ],
)
def test_unknown_names(tasks: str, methods: str | None, said: str) -> None:
    with pytest.raises(UserError) as caught:
        grid(None, [], tasks, methods)
    assert said in caught.value.what


def test_a_recipe_of_text_is_refused() -> None:
    with pytest.raises(UserError, match="is no recipe for GLUE"):
        grid("demo", [], None, None)


def test_tasks_are_taken_as_the_tables_print_them() -> None:
    trials = grid(None, [], "SST-2, CoLA,stsb,STS-B", None)
    assert [task_of(trial) for trial in trials] == ["sst2", "cola", "stsb"]
    assert len(grid(None, [], "All", None)) == len(grid(None, [], "rte,all", None)) == len(TASKS)
    with pytest.raises(UserError, match="foo"):
        grid(None, [], "all,foo", None)


def test_a_method_without_a_recipe_of_its_own_goes_into_that_of_galore() -> None:
    (fira,) = grid(None, [], "cola", "fira-rotate")
    assert (fira.folder, fira.learning_rate) == ("cola/fira-rotate-r4-lr3e-05-seed42", 3e-5)
    assert (fira.recipe.optim.residual, fira.recipe.optim.transport) == ("fira", "rotate")
