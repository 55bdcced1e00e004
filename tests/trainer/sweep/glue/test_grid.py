"""Which runs are made of tasks, methods, rates and seeds, and with which recipe each."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.tasks.glue import TASKS


def test_by_itself_it_is_the_recipes_task_and_method() -> None:
    (cell,) = grid(None, [], None, None)
    assert (cell.task, cell.method, cell.folder) == ("sst2", "galore", "sst2/galore-r4-lr1e-05-seed42")


def test_every_method_has_a_recipe_of_its_own() -> None:
    cells = grid(None, [], "cola", "galore,galore-8bit,frugal-rotate,lora,full")
    assert [cell.label for cell in cells] == ["galore-r4", "galore-8bit-r4", "frugal-rotate-r4", "lora-r8", "full"]
    assert [cell.learning_rate for cell in cells] == [3e-5, 3e-5, 2e-4, 4e-4, 2e-5]
    assert [cell.recipe.optim.state_dtype for cell in cells] == ["float32", "8bit", "float32", "float32", "float32"]
    assert {cell.recipe.train.global_batch_size for cell in cells} == {32}


def test_all_tasks_rates_and_seeds() -> None:
    cells = grid(None, ["train.seed=7"], "all", "galore,lora", "1e-4,2e-4", seeds=3)
    assert len(cells) == 9 * 2 * 2 * 3 == len({cell.folder for cell in cells})
    assert list(dict.fromkeys(cell.task for cell in cells)) == list(TASKS)
    assert {cell.seed for cell in cells} == {7, 8, 9}
    assert {cell.learning_rate for cell in cells} == {1e-4, 2e-4}


def test_a_method_goes_into_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: roberta-glue\noptim: {learning_rate: 0.5}\n")
    full, lora = grid(str(file), [], "rte", "full,lora")
    assert (full.recipe.optim.method, lora.recipe.optim.method) == ("full", "lora")
    assert full.learning_rate == lora.learning_rate == 0.5


def test_a_control_takes_nothing_over_from_a_recipe_of_galore(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: roberta-glue\noptim: {rank: 4, scale: 4, residual: frugal}\n")
    full, lora, galore = (
        cell.recipe.optim for cell in grid(str(file), ["data.max_length=64"], "rte", "full,lora,galore")
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
