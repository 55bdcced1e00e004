from __future__ import annotations

import itertools
import os
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from galore.trainer.data.tokens import tokenize
from galore.trainer.data.tokens.tokenize import Piece, batches, encode, encode_documents, encoder, pieces, threads
from galore.trainer.data.tokens.tokenizer import train_bpe


@pytest.fixture(scope="module")
def backend() -> Tokenizer:
    return train_bpe(iter(["the cat sat on the mat, and it didn't  move.\n\n1234 + 5678\n"] * 50), 320)


def nasty_text(length: int) -> str:
    draw = random.Random(0)
    words = ["the", "cat", "\n\n", "  ", " ", "didn't", "1234", "…", "漢字", "é", "\t", ".", "x" * 40, "<|endoftext|>"]
    return "".join(draw.choice(words) + draw.choice(["", " "]) for _ in range(length))


def test_pieces_give_the_tokens_of_the_whole(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 400)
    text = nasty_text(10_000)
    parts = [part for part, _ in pieces(text)]
    assert len(parts) > 50
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 400
    assert list(itertools.chain(*encode(backend, parts))) == encode(backend, [text])[0]


@pytest.mark.parametrize("text", ["", "short", "x" * 1000, " " * 1000, "ab " * 33 + "x" * 500])
def test_pieces_of_text_without_a_gap(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 100)
    parts = list(pieces(text))
    assert "".join(part for part, _ in parts) == text
    assert all(len(part) <= 100 for part, _ in parts)
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]


def test_a_run_of_white_space_is_never_cut(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 leaves the last space of a run to the next word, so a cut within the run would move a token's end."""
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 8)
    text = "ab cd\n\n  xy"
    assert [part for part, _ in pieces(text)] == ["ab", " cd\n\n  x", "y"]
    assert [part for part, _ in pieces("ab c \ndxyzw")] == ["ab", " c \ndxyz", "w"]


def test_metaspace_pieces_give_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 and its kin mark the beginning of a word, and do not mark one that brings its space along a second time."""
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 60)
    text = "the cat sat on the mat " * 40
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=60, show_progress=False))
    parts = [part for part, _ in pieces(text)]
    assert len(parts) > 10
    assert list(itertools.chain(*encode(backend, parts))) == encode(backend, [text])[0]


def test_a_tokenizer_that_truncates_and_pads_does_neither_here(backend: Tokenizer) -> None:
    short = Tokenizer.from_str(backend.to_str())
    short.enable_truncation(3)
    short.enable_padding(length=5)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=short)
    assert encode(encoder(wrapped), ["the cat sat on the mat", "x"]) == encode(backend, ["the cat sat on the mat", "x"])


def test_batches_keep_order_and_size() -> None:
    parts = [Piece("x" * 30, "train", True, str(i), i) for i in range(10)]
    made = list(batches(parts, chars=100))
    assert [len(batch) for batch in made] == [4, 4, 2]
    assert [piece for batch in made for piece in batch] == parts


def test_documents_of_many_pieces_come_back_whole(backend: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "PIECE_CHARS", 200)
    monkeypatch.setattr(tokenize, "STREAM_BATCH_CHARS", 500)
    texts = ["one cat", nasty_text(500), "", "the mat " * 90]
    assert list(encode_documents(backend, texts)) == encode(backend, texts)


def test_threads_are_set_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "maybe")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    with threads(3):
        assert os.environ["RAYON_NUM_THREADS"] == "3"
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    with threads(1):
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "maybe"
    assert "RAYON_NUM_THREADS" not in os.environ
