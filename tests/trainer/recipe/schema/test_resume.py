"""Between a run and its resumption only what carries it out may change; what it computes is told as it changed."""

from __future__ import annotations

import json

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import (
    SCHEDULE,
    changed_mathematics,
    mathematics,
    other_mathematics,
    with_schedule,
)


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo", list(overrides)).recipe


@pytest.mark.parametrize("override", ["train.device=cpu", "train.num_threads=1", "data.path=moved.txt"])
def test_execution_may_change(override: str) -> None:
    files = ("data.source=local", "data.path=here.txt")
    old, new = recipe(*files), recipe(*files, override)
    assert old != new
    assert changed_mathematics(old, new) == []
    assert mathematics(old) == mathematics(new)


def test_what_it_computes_is_told_from_old_to_new() -> None:
    old, new = recipe("optim.rank=8", "train.seed=1"), recipe("optim.rank=9", "train.seed=2")
    assert changed_mathematics(old, new) == ["optim.rank: 8 → 9", "train.seed: 1 → 2"]
    assert changed_mathematics(new, old) == ["optim.rank: 9 → 8", "train.seed: 2 → 1"]


def test_mathematics_is_json_of_every_other_field() -> None:
    known = mathematics(recipe("optim.rank=8"))
    assert json.loads(json.dumps(known)) == known
    assert known["optim.rank"] == 8
    assert not {"train.device", "data.path", "train.num_threads"} & known.keys()


def test_a_key_of_another_version_had_its_default() -> None:
    here = recipe("optim.rank=8")
    trained = mathematics(here) | {"optim.of_tomorrow": 1}
    del trained["train.seed"]
    assert other_mathematics(trained, here) == []
    assert other_mathematics(trained | {"optim.rank": 4}, here) == ["optim.rank: 4 → 8"]


def test_the_schedule_is_compared_apart_and_comes_back_as_it_was_trained() -> None:
    old = recipe("optim.lr_scheduler_type=linear", "optim.warmup_ratio=0.2", "train.max_steps=7")
    new = recipe("optim.lr_scheduler_type=constant", "train.max_steps=9")
    assert other_mathematics(mathematics(old), new) == []
    assert with_schedule(new, mathematics(old)) == old
    assert with_schedule(new, {}).optim.lr_scheduler_type == "cosine", "the default of a version that knew no other"
    assert set(SCHEDULE) <= mathematics(new).keys()


def test_a_value_is_written_as_a_recipe_has_it() -> None:
    old, new = (load_recipe("demo", [each]).recipe for each in ("optim.scale=0.5", "optim.scale=null"))
    assert changed_mathematics(old, new) == ["optim.scale: 0.5 → null"]
    assert other_mathematics(mathematics(old), new) == ["optim.scale: 0.5 → null"]
