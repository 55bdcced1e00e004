"""Settings of adapters that contradict each other or the rest of the recipe are refused, and say what to write."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError

LORA, RELORA, FACTORS = "optim.method=lora", "optim.adapter=relora", "optim.adapter=factors"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([RELORA], "optim.adapter=relora exists for optim.method=lora only"),
        (["optim.method=full", "optim.adapter=lora"], "optim.adapter=lora exists for optim.method=lora only"),
        (
            [LORA, "optim.relora_gap=10"],
            "relora_gap says when adapters restart: set optim.method=lora and optim.adapter=relora",
        ),
        ([LORA, FACTORS, "optim.relora_warmup_steps=1"], "relora_warmup_steps says when"),
        ([LORA, RELORA, "optim.relora_gap=10", "optim.relora_warmup_steps=10"], "set it below optim.relora_gap=10"),
        ([LORA, RELORA, "optim.relora_gap=50", "train.max_steps=50"], "never restarts in train.max_steps=50"),
        ([LORA, FACTORS, "optim.lora_dropout=0.1"], "set it to 0 with optim.adapter=factors"),
        ([LORA, FACTORS, "model.name_or_path=gpt2"], "set model.random_init=true, or optim.adapter=lora"),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("demo", overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [LORA, RELORA, "optim.relora_gap=10", "optim.relora_warmup_steps=9", "model.name_or_path=gpt2"],
        [LORA, RELORA, "optim.relora_gap=49", "train.max_steps=50"],
        [LORA, FACTORS, "model.name_or_path=gpt2", "model.random_init=true"],
    ],
)
def test_what_agrees(overrides: list[str]) -> None:
    assert load_recipe("demo", overrides).recipe.optim.method == "lora"
