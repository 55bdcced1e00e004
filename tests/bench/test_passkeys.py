"""bench/passkeys.py: its recipes are right, and each stage trains on what the one before it exports."""

from __future__ import annotations

import random
from collections import Counter
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
    assert [each.data.max_length for each in loaded] == [128, passkeys.SHORT, passkeys.SHORT]
    skips = [each.train.position_skips for each in loaded]
    assert [each and each.target_length for each in skips] == [passkeys.SHORT, None, passkeys.LONG]


def test_keys_stand_at_both_ends_of_rows_of_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    from galore.trainer.trained.longcontext import passkey

    monkeypatch.setattr(passkey, "passkey_row", lambda tokenizer, key, before, after: {"ids": [before, after]})
    rows = [tuple(passkeys.key_row(None, random.Random(seed), 9)["ids"]) for seed in range(400)]
    lengths = Counter(map(sum, rows))
    assert sorted(lengths) == [*range(10)]
    assert lengths[0] + lengths[1] > lengths[8] + lengths[9] > 30
    long = [(before, after) for before, after in rows if before + after > 5]
    assert min(sum(row[end] == 0 for row in long) for end in (0, 1)) > len(long) / 6
