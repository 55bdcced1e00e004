"""The stream is read from a local folder in the layout of a data set on the hub."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.stream.stream import StreamedData

SHARDS = 3


def run(data: StreamedData, steps: int) -> list[TokenBatch]:
    return [data.global_batch(step) for step in range(steps)]


def same(one: TokenBatch, two: TokenBatch) -> bool:
    tensors = torch.equal(one.input_ids, two.input_ids) and torch.equal(one.labels, two.labels)
    return tensors and one.sequence_ids == two.sequence_ids


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_resume_is_exact_at_every_step(stream: Callable[..., StreamedData], packing: str) -> None:
    whole, steps = stream(packing=packing), 60  # more than an epoch
    batches, positions = list[TokenBatch](), list[str]()
    for step in range(steps):
        positions.append(json.dumps(whole.position()))
        batches.append(whole.global_batch(step))
    resumed = stream(packing=packing)
    for step in (*range(0, steps, 7), 1, steps - 1):
        resumed.seek(json.loads(positions[step]), step)
        for later in range(step, min(step + 3, steps)):
            assert same(resumed.global_batch(later), batches[later])


def test_documents_of_a_stream_begin_as_prompts_do(stream: Callable[..., StreamedData], begins_with_bos: str) -> None:
    data = stream(tokenizer=begins_with_bos)
    bos, eos = data.tokenizer.bos_token_id, data.tokenizer.eos_token_id
    for rows in (
        [row for batch in run(data, 9) for row in batch.input_ids.tolist()],
        data.validation.read(np.arange(3))[0],
    ):
        ids = [int(token) for row in rows for token in row]
        assert ids[0] == bos
        assert ids.count(bos) > 1
        assert all((before == eos) == (after == bos) for before, after in pairwise(ids))


def test_a_run_resumed_at_every_step_is_the_uninterrupted_run(stream: Callable[..., StreamedData]) -> None:
    batches = run(stream(), 40)
    resumed = stream()
    position = json.dumps(resumed.position())
    for step in range(40):
        resumed.seek(json.loads(position), step)
        assert same(resumed.global_batch(step), batches[step])
        position = json.dumps(resumed.position())


def test_an_epoch_holds_every_training_document_once(stream: Callable[..., StreamedData], documents: list[str]) -> None:
    data = stream()
    text, epoch = "", 0
    step = 0
    while epoch == 0:
        text += data.tokenizer.decode(data.global_batch(step).input_ids.flatten().tolist())
        epoch, step = data.position()["at"]["block"]["epoch"], step + 1
    first_epoch = text.split("<|endoftext|>")[:170]
    assert sorted(first_epoch) == sorted(documents[30:])
    assert first_epoch != documents[30:]


def test_held_out_documents_are_never_trained_on(stream: Callable[..., StreamedData], documents: list[str]) -> None:
    data = stream()
    text = data.tokenizer.decode([token for batch in run(data, 80) for token in batch.input_ids.flatten().tolist()])
    assert not any(document in text for document in documents[:30])
    assert data.summary["dropped_copies_of_held_out"] >= 10
    held = data.tokenizer.decode(
        [token for batch in data.validation_batches(4, None) for token in batch.input_ids.flatten().tolist()]
    )
    assert all(document in held for document in documents[:29])


@pytest.mark.parametrize(("before", "after"), [(30, 10_000), (10_000, 30)])
def test_how_much_is_evaluated_on_changes_no_row_after_a_resume(
    stream: Callable[..., StreamedData], chat_tokenizer: Path, before: int, after: int
) -> None:
    of = {"tokenizer": str(chat_tokenizer)}
    whole = stream(max_tokens=before, **of)
    batches, positions = list[TokenBatch](), list[str]()
    for step in range(20):
        positions.append(json.dumps(whole.position()))
        batches.append(whole.global_batch(step))
    other = stream(max_tokens=after, **of)
    assert not all(same(one, two) for one, two in zip(run(stream(max_tokens=after, **of), 20), batches, strict=True))
    position = positions[7]
    for step in range(7, 20):  # resumed at every step
        other.seek(json.loads(position), step)
        assert same(other.global_batch(step), batches[step])
        position, other = json.dumps(other.position()), stream(max_tokens=after, **of)


def test_a_share_is_held_out_without_a_validation_split(
    stream: Callable[..., StreamedData], documents: list[str]
) -> None:
    data = stream(validation_split=None, validation_fraction=0.2)
    text = data.tokenizer.decode([token for batch in run(data, 80) for token in batch.input_ids.flatten().tolist()])
    held = data.tokenizer.decode(
        [token for batch in data.validation_batches(4, None) for token in batch.input_ids.flatten().tolist()]
    )
    sides = [(document in text, document in held) for document in documents[20:]]
    assert (True, True) not in sides
    assert sides.count((False, True)) > 15
    assert sides.count((True, False)) > 120


def test_shuffle_reaches_over_a_block(stream: Callable[..., StreamedData], documents: list[str]) -> None:
    def first_documents(**changes: Any) -> list[str]:
        data = stream(**changes)
        text = data.tokenizer.decode([t for batch in run(data, 10) for t in batch.input_ids.flatten().tolist()])
        return text.split("<|endoftext|>")[:17]

    stored = documents[20::SHARDS]
    in_order = [text for text in stored if text not in documents[:30]][:17]
    assert first_documents(shuffle=False) == in_order
    shuffled = first_documents()
    assert shuffled != in_order
    assert sorted(shuffled) == sorted(in_order)
    assert first_documents(train={"seed": 9}) != shuffled


def test_steps_are_asked_for_in_order(stream: Callable[..., StreamedData]) -> None:
    data = stream()
    first = data.global_batch(0)
    assert same(data.global_batch(0), first)
    with pytest.raises(ValueError, match="row 24 of a stream that stands before row 8"):
        data.global_batch(3)


def test_positions_of_other_data_are_refused(stream: Callable[..., StreamedData]) -> None:
    data = stream()
    data.global_batch(0)
    position = data.position()
    with pytest.raises(UserError, match="other data"):
        stream(max_length=16).seek(position, 1)
    with pytest.raises(UserError, match="before row 8, the checkpoint before row 16"):
        stream().seek(position, 2)


def test_bad_rows_are_counted_or_refused(hub: Path, stream: Callable[..., StreamedData]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in hub.glob("train*"):
        path.unlink()
    raw = pa.array([b"good text " * 30, b"caf\xe9", None, b"", b"a\x00b"] * 3, pa.binary())
    pq.write_table(pa.table({"text": raw.view(pa.string())}), hub / "train-00000.parquet")
    (hub / "validation-00000-of-00001.json.gz").unlink()
    pq.write_table(pa.table({"text": ["held out " * 30]}), hub / "validation-00000.parquet")
    data = stream(max_length=8)
    data.global_batch(0)
    counts = {kind: entry["rows"] for kind, entry in data.summary["bad_rows"].items()}
    assert set(counts) == {"invalid_utf8", "missing_field", "empty", "nul_bytes"}
    assert len(set(counts.values())) == 1
    with pytest.raises(UserError, match="bad row: not valid UTF-8"):
        stream(max_length=8, on_bad_rows="error").global_batch(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "absent/dataset"}, "cannot be opened"),
        ({"split": "test"}, r"Bad split: test\. Available splits: \['train', 'validation'\]"),
        ({"text_field": "body"}, "`body` is not among the columns text, url"),
        ({"text_field": ["url", "body"]}, "`body` is not among the columns text, url"),
        ({"validation_path": "held.txt"}, "is for local files"),
        ({"path": ["dataset", "dataset"]}, "names several data sets"),
    ],
)
def test_what_cannot_be_streamed_is_a_user_error(
    stream: Callable[..., StreamedData], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        stream(**changes)


def test_several_columns_are_one_text(stream: Callable[..., StreamedData]) -> None:
    data = stream(text_field=["url", "text"])
    texts = [text for text, _ in data.text.training(None)]
    assert texts
    assert all(re.fullmatch(r"x\n\n.+", text, re.DOTALL) for text in texts)


def test_a_damaged_shard_is_a_user_error(hub: Path, stream: Callable[..., StreamedData]) -> None:
    (hub / "train-00001-of-00003.json.gz").write_bytes(gzip.compress(b'{"text": "a\n{]\n'))
    with pytest.raises(UserError, match="a shard cannot be read"):
        run(stream(tokenizer_vocab_size=260), 40)


def test_a_stream_without_text_is_refused(hub: Path, stream: Callable[..., StreamedData]) -> None:
    for path in hub.glob("train*"):
        path.write_bytes(gzip.compress(b'{"text": " ", "url": "x"}\n'))
    with pytest.raises(UserError, match="no document to train on"):
        stream().global_batch(0)


def test_the_unigram_model_of_a_prefix(
    hub: Path, stream: Callable[..., StreamedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": text, "url": "x"} for text in (" ", "a good one " * 9)]
    (hub / "train-00000-a.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    monkeypatch.setattr("galore.trainer.data.stream.stream.COUNTED_ROWS", 50)
    data = stream()
    before = data.position()
    loss = data.baseline()["unigram_loss_nats"]
    targets = torch.cat([batch.labels[:, 1:].flatten() for batch in run(stream(train={"global_batch_size": 50}), 1)])
    counts = torch.bincount(targets, minlength=300).double() + 1
    held = torch.cat([batch.labels[:, 1:].flatten() for batch in data.validation_batches(4, None)])
    assert loss == pytest.approx(float(-(counts / counts.sum()).log()[held].mean()))
    assert data.position() == before
    assert data.summary["bad_rows"] == {}
    assert data.summary["dropped_copies_of_held_out"] == 0
    data.global_batch(0)
    assert data.summary["bad_rows"]["empty"]["rows"] == 1
