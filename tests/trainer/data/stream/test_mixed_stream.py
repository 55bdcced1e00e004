"""Data sets of the hub among files, mixed by weight: read from local folders in the layout of a data set on the hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from galore.trainer.common.errors import UserError
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.mixed import MixedData
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.facts import data_line
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
STREAM = {"name": "org/set", "weight": 3}
CHAT = {
    "source": "hub",
    "path": "org/chat",
    "weight": 2,
    "messages_field": "messages",
    "validation_fraction": 0.2,
}
FILES = {"path": "books.jsonl", "weight": 5}
STEPS = 25


@pytest.fixture
def folder(tmp_path: Path, documents: list[str], write_jsonl: Callable[..., Path]) -> Path:
    write_jsonl(documents[:60], "books.jsonl")
    write_jsonl([" ", *documents[80:130]], "org/set/train-00000-of-00002.jsonl")
    write_jsonl(documents[130:], "org/set/train-00001-of-00002.jsonl")
    write_jsonl(documents[60:80], "org/set/validation.jsonl")
    turns = [
        [{"role": "user", "content": f"Count {n}"}, {"role": "assistant", "content": "1 " * (1 + n % 6)}]
        for n in range(30)
    ]
    (tmp_path / "org/chat").mkdir()
    rows = "".join(json.dumps({"messages": each}) + "\n" for each in [*turns, []])
    (tmp_path / "org/chat/train.jsonl").write_text(rows)
    return tmp_path


@pytest.fixture
def mixed(folder: Path, recipe: MakeRecipe, chat_tokenizer: Path) -> Callable[..., MixedData]:
    def make(sources: list[dict[str, Any]] | None = None, **data: Any) -> MixedData:
        of = {"tokenizer": str(chat_tokenizer), "max_length": 80, "shuffle_buffer_size": 17} | data
        found = prepare_data(recipe(path=None, sources=sources or [STREAM, FILES, CHAT], **of), folder)
        assert isinstance(found, MixedData)
        return found

    return make


def same(one: TokenBatch, two: TokenBatch) -> bool:
    at = [each.positions if each.positions is not None else torch.zeros(1) for each in (one, two)]
    tensors = zip((one.input_ids, one.labels, at[0]), (two.input_ids, two.labels, at[1]), strict=True)
    return one.sequence_ids == two.sequence_ids and all(torch.equal(*each) for each in tensors)


def test_every_source_has_its_share_and_a_stream_gives_its_rows_in_their_order(
    mixed: Callable[..., MixedData], folder: Path, recipe: MakeRecipe, chat_tokenizer: Path
) -> None:
    data = mixed()
    bounds = np.cumsum([len(each.train) for each in data.sources.values()])
    batches = [data.global_batch(step) for step in range(STEPS)]
    owners = [int(np.searchsorted(bounds, row, side="right")) for batch in batches for row in batch.sequence_ids]
    for start in range(0, 200, 10):
        assert Counter(owners[start : start + 10]) == {0: 3, 1: 5, 2: 2}
    section = {"source": "hub", "path": "org/set", "tokenizer": str(chat_tokenizer), "max_length": 80}
    alone = prepare_data(recipe(**section, shuffle_buffer_size=17), folder)
    rows = torch.cat([batch.input_ids for batch in batches])[torch.tensor(owners) == 0]
    assert torch.equal(rows, torch.cat([alone.global_batch(step).input_ids for step in range(8)])[: len(rows)])
    about = data.summary["sources"]
    assert [about[name]["share"] for name in ("org/set", "books", "chat")] == [0.3, 0.5, 0.2]
    assert (about["org/set"]["rows_read"], about["chat"]["rows_read"]) == (60, 40)
    assert all(each["held_out"] > 0 for each in about.values())
    assert {kind: entry["rows"] > 0 for kind, entry in data.summary["bad_rows"].items()} == {
        "empty": True,
        "no_response": True,
    }
    assert data.num_sequences is None
    assert data_line(data.summary).startswith("2 streams beside files: 53 documents")
    assert any(
        note.startswith("org/set: 30.0% of the training sequences; it is streamed, and holds out")
        for note in data.notes
    )
    json.dumps(data.summary)


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_resume_is_exact_at_every_step(mixed: Callable[..., MixedData], packing: str) -> None:
    whole = mixed(packing=packing)
    batches, positions = list[TokenBatch](), list[str]()
    for step in range(STEPS):
        positions.append(json.dumps(whole.position()))
        batches.append(whole.global_batch(step))
        assert same(whole.global_batch(step), batches[step])
    assert whole.sources["chat"].place()["block"]["epoch"] > 0  # type: ignore[index]
    resumed = mixed(packing=packing)
    for step in (*range(0, STEPS, 6), 1, STEPS - 1):
        resumed.seek(json.loads(positions[step]), step)
        for later in range(step, min(step + 3, STEPS)):
            assert same(resumed.global_batch(later), batches[later])
    with pytest.raises(UserError, match="the data stand before row"):
        resumed.seek(json.loads(positions[3]), 4)
    own_name = STREAM | {"source": "hub", "path": STREAM["name"], "name": "mine"}
    renamed = mixed([own_name, FILES, CHAT], packing=packing)
    renamed.seek(json.loads(positions[3]), 3)
    assert same(renamed.global_batch(3), batches[3])
    other = mixed([STREAM | {"weight": 1}, FILES, CHAT], packing=packing)
    with pytest.raises(UserError, match="trained on other data"):
        other.seek(json.loads(positions[3]), 3)


def test_streams_alone_and_a_tokenizer_of_their_beginnings(
    mixed: Callable[..., MixedData], documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = {"source": "hub", "path": "org/set", "name": "again", "validation_fraction": 0.1}
    data = mixed([STREAM, again], tokenizer=None, max_length=32)
    assert data.tokenizer.decode(data.tokenizer(documents[90])["input_ids"]) == documents[90]
    assert len(set(data.global_batch(0).sequence_ids)) == 8
    first, second = (each.train for each in data.sources.values())
    assert not np.array_equal(first.read(np.arange(6))[0][:2], second.read(np.arange(2))[0])
    monkeypatch.setattr("galore.trainer.data.stream.stream.COUNTED_ROWS", 50)
    assert data.token_counts().sum() == pytest.approx(2 * 50 * 31, rel=1e-2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "no/such"}, r"^data\.sources\[1\]\.name: no/such, hub_config: None, split: train: cannot be opened"),
        (
            {"name": "org/set", "split": "tset"},
            r"^data\.sources\[1\]\.name: .*org/set, hub_config: None, split: tset: .*Bad split",
        ),
        (
            {"name": "org/set", "text_field": "body"},
            r"^data\.sources\[1\]\.text_field: `body` is not among the columns text",
        ),
        (
            {"source": "hub", "path": "org/chat", "messages_field": "messages"},
            r"(?s)^data\.sources\[1\]\.path: .*, validation_split: validation: .*Bad split.*or validation_fraction alone",
        ),
        (
            {"source": "hub", "path": "org/chat", "validation_fraction": 0.1},
            r"^data\.text_field \(data\.sources\[1\]: chat\): `text` is not",
        ),
    ],
)
def test_what_is_wrong_with_a_stream_names_it_before_the_first_step(
    mixed: Callable[..., MixedData], monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], message: str
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        mixed([FILES, source])


def test_what_breaks_off_while_training_names_its_source(mixed: Callable[..., MixedData], folder: Path) -> None:
    data = mixed([FILES, CHAT | {"validation_fraction": 0}], on_bad_rows="error")
    with pytest.raises(UserError, match=r"\(data\.sources\[1\]: chat\): bad row: no response"):
        [data.global_batch(step) for step in range(STEPS)]
