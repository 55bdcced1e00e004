"""How processes share a run: what contradicts itself is refused, and none of it is mathematics."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.resume import changed_mathematics

PARTS = "parallel.checkpoints=parts"


@pytest.mark.parametrize("mode", ["auto", "ddp"])
def test_parts_of_what_every_process_has_whole_are_refused(mode: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"parallel.mode.{mode} every process has them whole: set parallel.mode.fsdp"
    ):
        load_recipe("demo", [f"parallel.mode={mode}", PARTS])


@pytest.mark.parametrize("value", ["part", "null", "true", "4", "[parts]"])
def test_another_word_is_refused(value: str) -> None:
    with pytest.raises(RecipeError, match=r"parallel\.checkpoints"):
        load_recipe("demo", ["parallel.mode=fsdp", f"parallel.checkpoints={value}"])


def test_a_run_may_go_on_with_other_files() -> None:
    whole, parts = (load_recipe("demo", ["parallel.mode=fsdp", *more]).recipe for more in ([], [PARTS]))
    assert whole.parallel.checkpoints == "whole"
    assert changed_mathematics(whole, parts) == []
    assert changed_mathematics(parts, load_recipe("demo").recipe) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.residual=fira", "sends no whole gradients"),
        ("optim.inner=muon", "sees a matrix as a whole"),
        ("optim.adapter=relora", "cannot merge adapters"),
    ],
)
def test_what_parts_cannot_do_is_refused(override: str, said: str) -> None:
    more = ["optim.method=lora", "optim.relora_gap=2"] if "relora" in override else []
    with pytest.raises(RecipeError, match=said):
        load_recipe("demo", ["parallel.mode=fsdp", *more, override])
