"""Bytes by token: their sum over a text is the text's, where it can be."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from galore.trainer.data.tokens.bytelengths import byte_lengths

TEXT = "The cat, Größe 5 — 猫 sat 🐈‍⬛ on\tthe  mat.\n\nNext é"


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return made


def _sentencepiece() -> Tokenizer:
    pieces = ["<unk>", *(f"<0x{number:02X}>" for number in range(256)), "▁", "▁The", "cat", "ß", "猫"]
    made = Tokenizer(
        models.BPE(
            vocab={piece: at for at, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True
        )
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


@pytest.mark.parametrize(("backend", "extra"), [(_byte_level, 0), (_sentencepiece, 1)])
def test_the_tokens_of_a_text_have_its_bytes(backend: object, extra: int) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend(), eos_token="<end>")  # type: ignore[operator]
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    lengths = byte_lengths(tokenizer, len(tokenizer))
    assert lengths is not None
    for text, more in ((TEXT, 0), (TEXT + "<tool>", 6), (TEXT + "<end>", 0)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert lengths[ids].sum() == len(TEXT.encode()) + more + extra
    shorter = byte_lengths(tokenizer, 40)
    assert shorter is not None
    assert (shorter == lengths[:40]).all()


def test_words_without_their_spaces_are_no_text() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert byte_lengths(PreTrainedTokenizerFast(tokenizer_object=backend), 1) is None
