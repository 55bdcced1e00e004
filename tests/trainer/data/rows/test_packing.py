from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from galore.trainer.data.rows.packing import PackedRows, PaperRows
from galore.trainer.data.tokens.store import StoreWriter, TokenStore, token_type
from galore.trainer.data.tokens.tokenize import encode
from galore.trainer.data.tokens.tokenizer import END_OF_TEXT, Frame, frame_of, train_bpe

EOS = 0


def store_of(folder: Path, documents: list[list[int]]) -> TokenStore:
    with StoreWriter(folder, "train", token_type(1000), EOS) as writer:
        for ids in documents:
            writer.extend(ids)
            writer.end_document()
    return TokenStore(folder, "train", token_type(1000))


def test_packed_rows_are_the_joined_documents(tmp_path: Path) -> None:
    rows = PackedRows(store_of(tmp_path, [[1, 2, 3], [4], [5, 6, 7, 8]]), 4)
    input_ids, labels = rows.read(np.array([1, 0]))
    assert input_ids.tolist() == [[4, EOS, 5, 6], [1, 2, 3, EOS]]
    assert np.array_equal(labels, input_ids)
    assert labels is not input_ids
    assert input_ids.dtype == np.int64
    assert len(rows) == 2
    assert rows.summary == {"sequences": 2, "dropped_tokens": 3}


def test_dropped_tokens_are_counted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.data.tokens.store.COUNTED_DOCUMENTS", 2)
    store = store_of(tmp_path, [[1] * length for length in (3, 5, 7, 1, 9)])
    assert PaperRows(store, 4, Frame((), (), pad=9)).summary == {"sequences": 5, "dropped_tokens": 1 + 3 + 5}


def test_paper_rows_are_padded_and_padding_is_no_target(tmp_path: Path) -> None:
    rows = PaperRows(store_of(tmp_path, [[1, 2], [3, 4, 5, 6, 7]]), 4, Frame((), (), pad=9))
    input_ids, labels = rows.read(np.array([0, 1]))
    assert input_ids.tolist() == [[1, 2, 9, 9], [3, 4, 5, 6]]
    assert labels.tolist() == [[1, 2, -100, -100], [3, 4, 5, 6]]
    assert rows.summary == {"sequences": 2, "dropped_tokens": 1}


@pytest.mark.parametrize("template", [None, f"$A {END_OF_TEXT}", f"<s> $A {END_OF_TEXT}", "<s> $A"])
def test_paper_rows_are_what_the_tokenizer_makes(tmp_path: Path, template: str | None) -> None:
    texts = ["a cat", "the cat sat on the mat and looked at the hat " * 3, "x"]
    backend = train_bpe(iter(texts * 9), 270)
    backend.add_special_tokens(["<s>"])
    if template:
        special = [(token, backend.token_to_id(token)) for token in ("<s>", END_OF_TEXT)]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    store = store_of(tmp_path, encode(backend, texts))
    input_ids, labels = PaperRows(store, 16, frame_of(tokenizer, 16)).read(np.arange(3))
    wanted = tokenizer(texts, truncation=True, max_length=16, padding="max_length")
    assert input_ids.tolist() == wanted["input_ids"]
    assert (labels != -100).tolist() == (np.array(wanted["attention_mask"]) == 1).tolist()
    assert np.array_equal(labels[labels != -100], input_ids[labels != -100])


def test_isolated_documents_count_their_own_positions(tmp_path: Path) -> None:
    """Rows [1 2 3 EOS] [4 EOS 5 6] [7 8 EOS 9]: the second document of 5 goes on in another row, from 0 again."""
    store = store_of(tmp_path, [[1, 2, 3], [4], [5, 6, 7, 8], [9, 9]])
    rows = PackedRows(store, 4, isolated=True)
    positions = rows.positions(np.array([2, 1, 0]))
    assert positions is not None
    assert positions.tolist() == [[0, 1, 2, 0], [0, 1, 0, 1], [0, 1, 2, 3]]
    assert positions.dtype == np.int64
    assert PackedRows(store, 4).positions(np.array([0])) is None
    assert PaperRows(store, 4, Frame((), (), pad=9)).positions(np.array([0])) is None


def test_positions_are_those_of_every_document_wherever_rows_cut(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(1, 9, 60)
    store = store_of(tmp_path, [[1] * int(size) for size in sizes])
    flat = np.concatenate([np.arange(size + 1) for size in sizes])
    for length in (1, 3, 7, 16):
        rows = PackedRows(store, length, isolated=True)
        found = rows.positions(np.arange(len(rows)))
        expected = flat[: len(rows) * length].reshape(-1, length)
        cut = np.minimum.accumulate(np.where(expected == 0, 0, expected[:, :1]), axis=1)  # what began before the row
        assert found is not None
        assert found.tolist() == (expected - cut).tolist()
