"""Text to tokens on all cores, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE_CHARS = 1 << 15  # longer inputs encode slower per byte
BATCH_CHARS = 1 << 22  # enough work for many cores
STREAM_BATCH_CHARS = 1 << 20  # little enough that a step need not wait for tokens of a later one


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    side: str  # name of the store it goes to
    last: bool  # the document ends here
    where: str
    consumed: int


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """A text in parts of at most `PIECE_CHARS`, each but the first beginning with the space between two words, and for
    each whether it is the last one.

    Tokenizers that split at spaces before they merge (all byte-level BPE ones) give the same tokens as for the whole
    text; one that marks the start of its input may give one more per part.
    """
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = _word_gap(text, start, start + PIECE_CHARS)
        yield text[start:end], False
        start = end
    yield text[start:], True


def _word_gap(text: str, start: int, stop: int) -> int:
    gap = text.rfind(" ", start + 1, stop)
    while gap > start:
        if not text[gap - 1].isspace() and not text[gap + 1].isspace():
            return gap
        gap = text.rfind(" ", start + 1, gap)
    return stop


def batches(parts: Iterable[Piece], chars: int = BATCH_CHARS) -> Iterator[list[Piece]]:
    """Runs of pieces of about `chars` characters, the unit of work that is spread over the cores."""
    batch, size = list[Piece](), 0
    for part in parts:
        batch.append(part)
        size += len(part.text)
        if size >= chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encoder(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the Rust tokenizer that never truncates or pads, whatever its file says."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def encode(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids without the special tokens of a template. The GIL is released; all cores work."""
    encodings: list[Any] = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def encode_documents(backend: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, a batch of them at a time."""
    parts = (Piece(part, "", last, "", 0) for text in texts for part, last in pieces(text))
    document = list[int]()
    for batch in batches(parts, STREAM_BATCH_CHARS):
        for piece, ids in zip(batch, encode(backend, [piece.text for piece in batch]), strict=True):
            document += ids
            if piece.last:
                yield document
                document = []


@contextmanager
def threads(num_proc: int | None) -> Iterator[None]:
    """Let the Rust tokenizers use `num_proc` threads, all cores if None.

    Their pool is made at first use and keeps its size for the life of the process.
    """
    wanted = {"TOKENIZERS_PARALLELISM": "false" if num_proc == 1 else "true"}
    if num_proc is not None:
        wanted["RAYON_NUM_THREADS"] = str(num_proc)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
