"""Instruction data streamed from a local folder in the layout of a data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from galore.trainer.common.errors import UserError
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.stream.stream import StreamedData
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
TURNS = [[("user", f"Count to {n}"), ("assistant", " ".join(map(str, range(n + 1))))] for n in range(1, 31)]


def write(path: Path, conversations: list[list[tuple[str, str]]]) -> None:
    rows = [{"messages": [{"role": role, "content": said} for role, said in turns]} for turns in conversations]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def stream(tmp_path: Path, recipe: MakeRecipe, chat_tokenizer: Path) -> Callable[..., StreamedData]:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write(folder / "train-00000-of-00002.jsonl", TURNS[:14])
    write(folder / "train-00001-of-00002.jsonl", [*TURNS[14:], [("user", "nobody answers"), ("user", "me")]])
    write(folder / "validation-00000-of-00001.jsonl", TURNS[5:8])

    def make(**changes: Any) -> StreamedData:
        settings = {"source": "hub", "path": "dataset", "shuffle_buffer_size": 11, "messages_field": "messages"}
        settings |= {"tokenizer": str(chat_tokenizer), "max_length": 192} | changes
        data = prepare_data(recipe(train={"global_batch_size": 2}, **settings), tmp_path)
        assert isinstance(data, StreamedData)
        return data

    return make


def answers(data: Any, batch: Any) -> list[str]:
    assert torch.equal(batch.input_ids[batch.labels >= 0], batch.labels[batch.labels >= 0])
    runs = "".join("\n" if label < 0 else data.tokenizer.decode([label]) for label in batch.labels.flatten().tolist())
    return [run for run in runs.split("\n") if run]


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_an_epoch_trains_on_every_response_once(stream: Callable[..., StreamedData], packing: str) -> None:
    data, found = stream(packing=packing), list[str]()
    expected = {f"{turns[1][1]}<|im_end|>" for turns in TURNS[:5] + TURNS[8:]}
    while len(found) < 2 * len(expected):
        found += answers(data, data.global_batch(data.position()["step"]))
    assert set(found[: len(expected)]) == expected
    assert data.summary["dropped_copies_of_held_out"] >= 3
    assert data.summary["bad_rows"]["no_response"]["rows"] >= 1
    held_out = [answer for batch in data.validation_batches(4, None) for answer in answers(data, batch)]
    assert sorted(held_out) == sorted(f"{turns[1][1]}<|im_end|>" for turns in TURNS[5:8])


def test_a_stream_has_the_template_and_the_tokens_of_its_recipe(stream: Callable[..., StreamedData]) -> None:
    data = stream(chat_template="phi3", loss_on="last")
    assert data.tokenizer.chat_template == CHAT_TEMPLATES["phi3"].text
    assert "model.new_tokens=" in data.notes[0]
    assert "0 1<|end|>" in {each for step in range(30) for each in answers(data, data.global_batch(step))}


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_resume_is_exact_at_every_step(stream: Callable[..., StreamedData], packing: str) -> None:
    whole, steps = stream(packing=packing), 30
    positions, batches = list[str](), list[Any]()
    for step in range(steps):
        positions.append(json.dumps(whole.position()))
        batches.append(whole.global_batch(step))
    resumed = stream(packing=packing)
    for step in reversed(range(steps)):
        resumed.seek(json.loads(positions[step]), step)
        again = resumed.global_batch(step)
        assert torch.equal(again.input_ids, batches[step].input_ids)
        assert torch.equal(again.labels, batches[step].labels)
        assert again.sequence_ids == batches[step].sequence_ids


def test_long_responses_are_cut(stream: Callable[..., StreamedData]) -> None:
    batch = stream(max_length=80).global_batch(0)
    assert batch.input_ids.shape == (2, 80)


def test_a_stream_that_holds_nothing_to_train_on_ends(stream: Callable[..., StreamedData]) -> None:
    with pytest.raises(UserError, match="no row of the stream can be trained on"):
        stream(max_length=20, validation_split=None, validation_fraction=0).global_batch(0)


def test_a_column_that_is_not_there(stream: Callable[..., StreamedData]) -> None:
    with pytest.raises(UserError, match="`chat` is not among the columns messages") as caught:
        stream(messages_field="chat")
    assert caught.value.where == "data.messages_field"


def test_what_is_trained_on_is_in_the_fingerprint(stream: Callable[..., StreamedData]) -> None:
    position = stream().position()
    stream().seek(position, 0)
    with pytest.raises(UserError, match="other data"):
        stream(loss_on="all").seek(position, 0)


def test_examples_of_a_row_are_isolated_unless_told_otherwise(stream: Callable[..., StreamedData]) -> None:
    batch = stream().global_batch(0)
    start = stream().tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert batch.positions is not None
    for ids, positions in zip(batch.input_ids.tolist(), batch.positions.tolist(), strict=True):
        turns = [at for at, token in enumerate(ids) if token == start]
        begins = turns[::2]  # of a user and of an assistant
        assert len(begins) > 1
        assert [at for at, position in enumerate(positions) if position == 0][: len(begins)] == begins
        assert all(later in (0, earlier + 1) for earlier, later in pairwise(positions))
    assert stream(isolate_documents=False).global_batch(0).positions is None
    assert stream(packing="paper").global_batch(0).positions is None
    assert stream().validation.positions(np.array([0])) is not None
