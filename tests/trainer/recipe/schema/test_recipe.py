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


@pytest.mark.parametrize(
    ("length", "streaming", "streams"),
    [("max_steps=9", "null", True), ("num_train_epochs=2", "null", False), ("max_steps=9", "false", False)],
)
def test_data_of_the_hub_stream_where_steps_count(length: str, streaming: str, streams: bool) -> None:
    data = ["data.source=hub", "data.path=a/b", f"data.streaming={streaming}"]
    made = load_recipe("demo", [*data, f"train.{length}"]).recipe
    assert made.streams(made.data) is streams
    of_files = load_recipe("demo", [f"train.{length}", f"data.streaming={streaming}"]).recipe
    assert not of_files.streams(of_files.data)


@pytest.mark.parametrize(
    "data",
    [
        "data.streaming=true data.source=hub data.path=a/b",
        "data.source=local data.sources=[{name: x, streaming: true}]",
    ],
)
def test_a_stream_has_no_epochs(data: str) -> None:
    with pytest.raises(RecipeError, match=r"set train.max_steps, or data.streaming=false"):
        load_recipe("demo", [*re.split(" (?=data)", data), "train.num_train_epochs=2"])


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
