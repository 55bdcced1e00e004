"""bench/passkeys.py: its recipes are right, and each stage trains on what the one before it exports."""

from __future__ import annotations

import random
from pathlib import Path

import passkeys
import pytest

from galore.trainer.recipe.load import load_recipe


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name, recipe in passkeys.RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(recipe)
    for name in ("search", "held"):
        (tmp_path / f"{name}.yaml").write_text(passkeys.SCORE % name)
    return tmp_path


@pytest.mark.parametrize("name", [*passkeys.RECIPES, "search", "held"])
def test_a_recipe_is_right(work: Path, name: str) -> None:
    load_recipe(str(work / f"{name}.yaml"))


def test_each_goes_on_from_the_one_before(work: Path) -> None:
    names = [*passkeys.RECIPES]
    loaded = [load_recipe(str(work / f"{name}.yaml")).recipe for name in names]
    assert [each.model.name_or_path for each in loaded] == [None, *(f"{name}-model" for name in names[:-1])]
    assert [each.data.max_length for each in loaded] == [128, passkeys.SHORT, passkeys.LONG]


def test_of_several_draws_of_lines_the_most_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.trained.longcontext import passkey

    monkeypatch.setattr(passkey, "passkey_row", lambda tokenizer, key, before, after: {"ids": [before + after]})
    few, most = (
        sum(passkeys.key_row(None, random.Random(seed), 9, draws)["ids"][0] for seed in range(50)) / 50
        for draws in (1, 8)
    )
    assert few < 6 < 8 < most <= 9
