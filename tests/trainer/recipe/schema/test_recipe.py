"""Settings that cannot go with a task of GLUE, each refused with what to write instead."""

from __future__ import annotations

import re

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.task=null", "needs data.task"),
        ("data.path=null", "needs `data.path`"),
        ("data.path=[a, b]", "takes one data.path"),
        ("model.name_or_path=null", "needs model.name_or_path"),
        ("data.messages_field=m", "knows its columns"),
        ("train.z_loss=0.1", "leave it out"),
        ("eval.sample_prompt=Why?", "leave it out"),
        ("data.task=sst3", "write sst2"),
        ("data.source=hub data.path=x data.task=sst2", "data.task=sst2 goes with data.source=glue"),
    ],
)
def test_refused(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("roberta-glue", re.split(" (?=data)", override))
    assert said in str(caught.value)


def test_samples_are_counted_for_tasks_only() -> None:
    with pytest.raises(RecipeError, match="max_train_samples goes with"):
        load_recipe("demo", ["data.max_train_samples=5"])


@pytest.mark.parametrize(
    "other",
    [
        "train.fused=auto",
        "train.tile_tokens=64",
        "train.stream_weights=true",
        "data.isolate_documents=true",
        "parallel.mode=fsdp",
    ],
)
def test_what_would_be_compiled_beside_something_else_is_refused(other: str) -> None:
    key = other.replace("=fsdp", ": fsdp").partition("=")[0]
    with pytest.raises(RecipeError, match=f"train.compile and {key.split(':')[0]}.* cannot be combined"):
        load_recipe("demo", ["train.compile=true", other])
