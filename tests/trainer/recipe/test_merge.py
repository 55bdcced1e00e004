"""Layers on top of each other: what one sets takes the place of what it is an alternative to, in all layers below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.explain.fields import fields
from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.merge import ALTERNATIVES, OF_ONE_SOURCE
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.source import FIELDS

VALUES = {
    "model.name_or_path": "gpt2",
    "model.architecture_of": "llama-2-7b",
    "train.max_steps": 30,
    "train.num_train_epochs": 3.0,
    "eval.eval_steps": 70,
    "eval.eval_epochs": 2,
    "optim.warmup_steps": 9,
    "optim.warmup_ratio": 0.03,
    "optim.lr_decay_steps": 3,
    "optim.lr_decay_ratio": 0.2,
    "data.validation_path": "/held/out.jsonl",
    "data.validation_fraction": 0.2,
    "data.tokenizer": "t5-base",
    "data.tokenizer_vocab_size": 999,
    "data.text_field": "body",
    "data.messages_field": "talk",
    "data.tokens_field data.labels_field data.extra_field": "ids",
    "data.prompt_field data.input_field data.response_field": "column",
}
# every recipe here has a path; what overrules it is tried in test_files.py
OTHERS = [line for line in ALTERNATIVES if "data.path" not in line]
PAIRS = [(one, other) for line in OTHERS for one in line for other in line if one != other]


def layer(paths: str, value: Any) -> str:
    """A recipe of these settings, and of the little that is needed beside them."""
    lines: dict[str, list[str]] = {"data": ["source: local", "path: x.jsonl"], "train": []}
    if not paths.startswith("train"):
        lines["train"].append("max_steps: 5")
    if paths.startswith("optim.lr_decay"):
        lines["optim"] = ["lr_scheduler_type: warmup_stable_decay"]
    if "data.extra_field" in paths:
        lines["data"].append("packing: paper")
    for path in paths.split():
        lines.setdefault(path.split(".")[0], []).append(f"{path.split('.')[1]}: {value}")
    return "".join(f"{section}: {{{', '.join(each)}}}\n" for section, each in lines.items())


def value(recipe: Any, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(recipe, section), name)


@pytest.mark.parametrize(("below", "above"), PAIRS)
@pytest.mark.parametrize("how", ["file", "override"])
def test_what_is_set_overrules_its_alternatives_below(tmp_path: Path, below: str, above: str, how: str) -> None:
    (tmp_path / "base.yaml").write_text(layer(below, VALUES[below]))
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\n" + layer(above, VALUES[above]) * (how == "file"))
    overrides = [f"{path}={VALUES[above]}" for path in above.split()] if how == "override" else []
    overrides += ["data.packing=paper"] * (how == "override" and "data.extra_field" in above)
    loaded = load_recipe(str(tmp_path / "mine.yaml"), overrides)
    assert {value(loaded.recipe, path) for path in above.split()} == {VALUES[above]}
    assert all(value(loaded.recipe, path) == fields()[path].schema["default"] for path in below.split())
    for path in below.split():
        assert f"{path} at {tmp_path / 'base.yaml'}:" in loaded.text
    assert f"is left out: {above.split()[0]} at " in loaded.text
    assert recipe_from_resolved(loaded.text, "resolved") == loaded.recipe


@pytest.mark.parametrize(
    ("below", "above"), [pair for pair in PAIRS if fields()[pair[1].split()[0]].schema["default"] is None]
)
def test_null_as_the_default_chooses_nothing(tmp_path: Path, below: str, above: str) -> None:
    (tmp_path / "base.yaml").write_text(layer(below, VALUES[below]))
    recipe = load_recipe(str(tmp_path / "base.yaml"), [f"{path}=null" for path in above.split()]).recipe
    assert {value(recipe, path) for path in below.split()} == {VALUES[below]}


def test_null_that_means_never_is_a_choice() -> None:
    evaluation = load_recipe("roberta-glue", ["eval.eval_steps=null"]).recipe.eval
    assert (evaluation.eval_steps, evaluation.eval_epochs) == (None, None), "at the end only"


def test_both_in_one_layer_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ntrain: {max_steps: 3, num_train_epochs: 2}")
    train = load_recipe(str(tmp_path / "mine.yaml")).recipe.train
    assert (train.max_steps, train.num_train_epochs) == (3, 2)


def test_a_part_of_the_same_alternative_is_no_other_one(tmp_path: Path) -> None:
    data = load_recipe("finetune-instruct", ["data.input_field=context"]).recipe.data
    assert (data.prompt_field, data.input_field, data.response_field) == ("instruction", "context", "output")


def test_another_source_leaves_nothing_of_the_one_before() -> None:
    data = load_recipe("llama-60m", ["data.source=packaged"]).recipe.data
    assert (data.path, data.hub_config, data.tokenizer) == (None, None, "t5-base")
    data = load_recipe("roberta-glue", ["data.source=local", "data.path=x.txt"]).recipe.data
    assert (data.task, data.max_length) == (None, 512)
    with pytest.raises(RecipeError, match=r"data\.source=local needs `data\.path`"):
        load_recipe("llama-60m", ["data.source=local"])


def test_columns_go_with_rows_of_another_place_but_not_with_what_has_none() -> None:
    hub = load_recipe("finetune-instruct", ["data.source=hub", "data.path=tatsu-lab/alpaca"]).recipe.data
    assert (hub.prompt_field, hub.response_field) == ("instruction", "output")
    assert not load_recipe("finetune-instruct", ["data.source=packaged"]).recipe.data.instruct


def test_the_same_source_again_changes_nothing() -> None:
    assert load_recipe("llama-60m", ["data.source=hub"]).recipe == load_recipe("llama-60m").recipe


def test_a_checkpoint_takes_the_place_of_dimensions_and_of_their_tokenizer() -> None:
    loaded = load_recipe("llama-7b-24gb", ["model.name_or_path=mistralai/Mistral-7B-v0.1"])
    assert (loaded.recipe.model.vocab_size, loaded.recipe.data.tokenizer) == (None, None)
    assert "# " in loaded.text.split("data.tokenizer at llama-7b:")[0]
    own = load_recipe("llama-60m", ["model.name_or_path=x", "data.tokenizer=y", "model.vocab_size=50"]).recipe
    assert (own.model.vocab_size, own.data.tokenizer) == (50, "y")
    fresh = load_recipe("llama-60m", ["model.name_or_path=x", "model.random_init=true"]).recipe
    assert (fresh.model.vocab_size, fresh.data.tokenizer) == (32_000, "t5-base")


def test_the_tables_name_fields() -> None:
    assert {each for line in OTHERS for each in line} == set(VALUES)
    named = [path for each in VALUES for path in each.split()]
    assert {*named, *(f"data.{name}" for name in [*OF_ONE_SOURCE, *FIELDS])} <= set(fields())
