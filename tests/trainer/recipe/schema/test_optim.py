"""Weights in 8 bits go with projected gradients and with their own rounding; what contradicts that says what to write."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError

INT8 = "optim.weight_dtype=int8"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.method=full"], "write optim.weight_dtype=null, or optim.method=galore"),
        (["optim.method=lora"], "write optim.weight_dtype=null, or optim.method=galore"),
        (["optim.method=lora", "optim.adapter=factors"], "write optim.weight_dtype=null, or optim.method=galore"),
        (["optim.weight_rounding=compensated"], "with optim.weight_dtype=int8 write stochastic"),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("demo", [INT8, *overrides])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "overrides", [[], ["optim.weight_rounding=nearest"], ["optim.residual=fira"], ["optim.projection=hook"]]
)
def test_what_agrees(overrides: list[str]) -> None:
    assert load_recipe("demo", [INT8, *overrides]).recipe.optim.weight_dtype == "int8"
