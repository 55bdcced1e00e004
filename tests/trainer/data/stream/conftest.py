"""A local folder in the layout of a data set on the hub, and the stream of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.stream.stream import StreamedData
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
SHARDS = 3


@pytest.fixture
def hub(tmp_path: Path, documents: list[str]) -> Path:
    """Three gzipped shards as C4 has them, and a validation split of which some rows are also in the training one."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for shard in range(SHARDS):
        write_shard(folder / f"train-{shard:05d}-of-00003.json.gz", documents[20 + shard :: SHARDS])
    write_shard(folder / "validation-00000-of-00001.json.gz", documents[:30])
    return folder


def write_shard(path: Path, texts: list[str]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"text": text, "url": "x"}) + "\n" for text in texts)


@pytest.fixture
def stream(hub: Path, recipe: MakeRecipe) -> Callable[..., StreamedData]:
    def make(max_tokens: int | None = None, **changes: Any) -> StreamedData:
        made = recipe(**{"source": "hub", "path": "dataset", "shuffle_buffer_size": 17} | changes)
        if max_tokens is not None:
            made = made.model_copy(update={"eval": made.eval.model_copy(update={"max_tokens": max_tokens})})
        data = prepare_data(made, hub.parent)
        assert isinstance(data, StreamedData)
        return data

    return make
