"""`tasks:` of a recipe file: above the files, below the command line, checked for every task, gone once resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse.problems import RecipeError

BASE = """
data: {source: glue, task: sst2, path: nyu-mll/glue}
model: {name_or_path: FacebookAI/roberta-base}
train: {num_train_epochs: 3, global_batch_size: 16}
optim: {learning_rate: 0.1}
tasks:
  cola: {train.global_batch_size: 32, optim.learning_rate: 0.2}
  rte: {optim.learning_rate: 0.3, optim.rank_pattern: {query: 8}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.yaml"
    file.write_text(BASE)
    return file


def test_only_the_task_at_hand_counts(base: Path) -> None:
    assert load_recipe(str(base)).recipe.optim.learning_rate == 0.1
    cola = load_recipe(str(base), ["data.task=cola"]).recipe
    assert (cola.optim.learning_rate, cola.train.global_batch_size) == (0.2, 32)
    rte = load_recipe(str(base), ["data.task=rte"]).recipe
    assert (rte.optim.learning_rate, rte.train.global_batch_size, rte.optim.rank_pattern) == (0.3, 16, {"query": 8})


def test_the_command_line_goes_before_them(base: Path) -> None:
    assert load_recipe(str(base), ["data.task=cola", "optim.learning_rate=0.5"]).recipe.optim.learning_rate == 0.5


def test_a_recipe_adds_to_those_of_the_one_it_extends(base: Path) -> None:
    child = base.with_name("child.yaml")
    child.write_text("extends: base.yaml\noptim: {learning_rate: 0.7}\ntasks: {cola: {optim.learning_rate: 0.8}}\n")
    cola, rte = (load_recipe(str(child), [f"data.task={task}"]).recipe for task in ("cola", "rte"))
    assert (cola.optim.learning_rate, cola.train.global_batch_size) == (0.8, 32)
    assert rte.optim.rank_pattern == {"query": 8}
    assert load_recipe(str(child)).recipe.optim.learning_rate == 0.7


def test_what_a_recipe_says_for_all_tasks_goes_before_the_tasks_of_the_one_it_extends(base: Path) -> None:
    child = base.with_name("child.yaml")
    child.write_text("extends: base.yaml\noptim: {learning_rate: 0.7}\n")
    assert {load_recipe(str(child), [f"data.task={task}"]).recipe.optim.learning_rate for task in ("cola", "rte")} == {
        0.7
    }


def test_what_is_resolved_reads_back_the_same(base: Path) -> None:
    loaded = load_recipe(str(base), ["data.task=cola", "optim.learning_rate=0.5"])
    assert recipe_from_resolved(loaded.text, "here") == loaded.recipe


@pytest.mark.parametrize(
    ("tasks", "line", "said"),
    [
        ("{sst: {optim.rank: 4}}", 8, "did you mean sst2?"),
        ("{cola: {optim.lerning_rate: 1}}", 8, "here it is called `learning_rate`"),
        ("{cola: {rank: 1}}", 8, "is no setting of a task"),
        ("{cola: {data.task: rte}}", 8, "is no setting of a task"),
        ("{cola: 3}", 8, "is a mapping of settings"),
        ("7", 8, "is a mapping from a task to its settings"),
    ],
)
def test_what_is_wrong_with_any_of_them_is_told(base: Path, tasks: str, line: int, said: str) -> None:
    text = BASE[: BASE.index("tasks:")] + "\n" * 2 + f"tasks: {tasks}\n"
    base.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(base))
    assert said in str(caught.value)
    assert f"base.yaml:{line}" in str(caught.value)


def test_a_value_that_is_wrong_is_told_where_it_stands(base: Path) -> None:
    base.write_text(BASE.replace("0.2}", "quick}"))
    load_recipe(str(base))
    with pytest.raises(RecipeError, match=r"base.yaml:7:[0-9]+.*optim.learning_rate.*expected a number"):
        load_recipe(str(base), ["data.task=cola"])
