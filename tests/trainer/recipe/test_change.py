"""A recipe changed by the program is a recipe as if it had been written so."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.recipe.change import changed, spelled
from galore.trainer.recipe.load import load_recipe, recipe_from_resolved

CHANGES = [
    {"optim.rank": 16},
    {"optim.state_dtype": "8bit", "train.gradient_checkpointing": True},
    {"train.expandable_segments": False},
    {"optim.max_grad_norm": None, "optim.refresh": "first-micro-batch", "optim.update": "immediate"},
    {},
]


@pytest.mark.parametrize("settings", CHANGES)
def test_as_overrides_on_the_command_line(settings: dict[str, object]) -> None:
    loaded = load_recipe("demo")
    other = changed(loaded, settings)
    assert other is not None
    assert other.recipe == load_recipe("demo", spelled(settings)).recipe
    assert (other.recipe == loaded.recipe) == (not settings)
    assert (other.origin, other.base_dir) == (loaded.origin, loaded.base_dir)
    assert loaded == load_recipe("demo"), "the recipe itself is as it was"


@pytest.mark.parametrize("settings", CHANGES)
def test_its_text_is_the_recipe_and_says_what_was_changed(settings: dict[str, object]) -> None:
    other = changed(load_recipe("demo"), settings)
    assert other is not None
    assert recipe_from_resolved(other.text, "changed") == other.recipe
    assert "# Resolved from demo" in other.text
    for line in spelled(settings):
        assert f"\n#   {line}\n" in other.text


@pytest.mark.parametrize(
    "settings",
    [
        {"train.micro_batch_size": 3},  # of 16
        {"optim.refresh": "two-pass"},  # with stagger
        {"optim.update": "immediate"},  # with clipping
        {"data.max_length": 100_000},
        {"optim.rank": 0},
        {"optim.state_dtype": "4bit"},
    ],
)
def test_a_contradiction_is_no_recipe(settings: dict[str, object]) -> None:
    assert changed(load_recipe("demo"), settings) is None


def test_changes_upon_changes() -> None:
    first = changed(load_recipe("demo"), {"train.micro_batch_size": 4})
    assert first is not None
    second = changed(first, {"optim.rank": 8})
    assert second is not None
    assert (second.recipe.train.micro_batch_size, second.recipe.optim.rank) == (4, 8)


def test_paths_stay_where_they_were(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ndata: {source: local, path: corpus.txt}")
    loaded = load_recipe(str(tmp_path / "mine.yaml"))
    other = changed(loaded, {"optim.rank": 8})
    assert other is not None
    assert other.recipe.data == loaded.recipe.data
    assert other.recipe.data.path == str(tmp_path / "corpus.txt")
    assert recipe_from_resolved(other.text, "changed").data.path == str(tmp_path / "corpus.txt")


def test_spelled() -> None:
    settings = {"a.b": None, "c.d": True, "e.f": False, "g.h": 3, "i.j": "8bit", "k.l": 1.5, "m.n": 1, "o.p": 0}
    settings |= {"q.r": ("x", "y.z"), "s.t": [1, 2]}
    words = [
        "a.b=null",
        "c.d=true",
        "e.f=false",
        "g.h=3",
        "i.j=8bit",
        "k.l=1.5",
        "m.n=1",
        "o.p=0",
        "q.r=[x,y.z]",
        "s.t=[1,2]",
    ]
    assert spelled(settings) == words
    rope = {"model.rope": {"type": "yarn", "factor": 2.0}, "model.max_position_embeddings": 512}
    assert load_recipe("demo", spelled(rope)).recipe.model.rope is not None
