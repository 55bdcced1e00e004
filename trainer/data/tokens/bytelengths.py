"""How many bytes of text each token spells, so that a loss per token can be told per byte, whatever the vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galore.trainer.data.tokens.tokenize import encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"  # of sentencepiece
ONE_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def byte_lengths(tokenizer: PreTrainedTokenizerBase, size: int) -> npt.NDArray[np.int64] | None:
    """Bytes of UTF-8 by token id, (size,); None for a vocabulary whose tokens do not say where spaces are.

    Exact for byte-level tokens, and for sentencepiece's but for the space it may put before a text, which counts as one
    byte. Special tokens are no text and have none. Of a tokenizer that normalizes, it is the normalized text's.
    """
    backend = encoder(tokenizer)
    kinds = set(_kinds(json.loads(backend.to_str())["decoder"]))
    if "ByteLevel" not in kinds and not kinds & {"Metaspace", "ByteFallback"}:
        return None
    lengths = np.zeros(size, np.int64)
    for token, number in backend.get_vocab(with_added_tokens=False).items():
        if number < size:
            lengths[number] = len(token) if "ByteLevel" in kinds else _spelled(token)
    for number, added in backend.get_added_tokens_decoder().items():
        if number < size:
            lengths[number] = 0 if added.special else len(added.content.encode())
    return lengths


def _kinds(decoder: Any) -> Iterator[str]:
    """The names of a decoder and of those that it is a sequence of."""
    if decoder is not None:
        yield decoder["type"]
        for each in decoder.get("decoders", []):
            yield from _kinds(each)


def _spelled(token: str) -> int:
    return 1 if ONE_BYTE.fullmatch(token) else len(token.replace(SPACE, " ").encode())
