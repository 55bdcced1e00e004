"""The table of expected losses goes with the recipes it names: their tokens, and the logarithm of each perplexity."""

from __future__ import annotations

import math
import re

import pytest
from snippets import ROOT

from galore.trainer.recipe.load import load_recipe

ROW = re.compile(r"^\| `([\w-]+)` \| ([\d.]+)B \| ([\d.]+) \| ([\d.]+) \|$", re.M)
ROWS = ROW.findall((ROOT / "docs/recipes.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_tokens_are_those_of_the_recipe_and_the_loss_is_the_logarithm(row: tuple[str, str, str, str]) -> None:
    name, tokens, perplexity, loss = row
    recipe = load_recipe(name, []).recipe
    assert recipe.train.max_steps is not None
    planned = recipe.train.max_steps * recipe.train.global_batch_size * recipe.data.max_length
    assert f"{planned / 1e9:.1f}" == tokens
    assert f"{math.log(float(perplexity)):.3f}" == loss


def test_every_size_has_its_rows() -> None:
    assert len(ROWS) == 13
    assert {name.split("-")[1] for name, *_ in ROWS} == {"60m", "130m", "350m", "1b", "7b"}
