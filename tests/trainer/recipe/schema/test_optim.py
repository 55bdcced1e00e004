"""Weights in 8 bits go with projected gradients and with their own rounding, a rate is a number or a multiple of another;
what contradicts that says what to write."""

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


RATE = "optim.embedding_learning_rate"


@pytest.mark.parametrize(
    ("given", "rate"), [("0.03", 0.03), ("5x", 0.05), (".5x", 0.005), ("1e-1x", 0.001), ("3.x", 0.03)]
)
def test_a_rate_of_their_own_is_a_number_or_a_multiple(given: str, rate: float) -> None:
    optim = load_recipe("demo", [f"{RATE}={given}", "optim.learning_rate=0.01"]).recipe.optim
    assert optim.peak_rates == {"learning_rate": 0.01, "embedding_learning_rate": pytest.approx(rate)}


@pytest.mark.parametrize(
    "given", ["-5x", "x", "5 x", "5X", "x5", "fivex", "5xx", "nanx", "infx", "5%", "-0.1", "true", "[5x]"]
)
def test_what_is_neither_is_refused(given: str) -> None:
    with pytest.raises(RecipeError, match="a number > 0 or text such as 5x or null"):
        load_recipe("demo", [f"{RATE}={given}"])


def test_a_multiple_is_the_number_that_it_is_in_decimals() -> None:
    optim = load_recipe("demo", [f"{RATE}=3x", "optim.learning_rate=0.003"]).recipe.optim
    assert optim.peak_rates["embedding_learning_rate"] == 0.009


@pytest.mark.parametrize("given", ["0x", "1e99x", "1e999x", "1e-999x"])
def test_a_multiple_is_within_the_bounds_of_a_rate(given: str) -> None:
    with pytest.raises(RecipeError, match=rf"{given} is \S+ at optim.learning_rate=0.01"):
        load_recipe("demo", [f"{RATE}={given}"])
