"""Tokenised documents on disk: flat token ids and document offsets, memory-mapped."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.unsignedinteger[Any]]

OFFSET_TYPE = np.dtype("<i8")


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every id: two bytes below 65,536 ids, else four."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.tokens", folder / f"{name}.offsets"


class TokenStore:
    """Documents as slices of one array: document i is `tokens[offsets[i]:offsets[i + 1]]`, its EOS included, and
    its BOS where it is packed and the tokenizer puts one before texts."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        tokens, offsets = _paths(folder, name)
        self.tokens: Tokens = mapped(tokens, dtype)  # (tokens,)
        self.offsets: npt.NDArray[np.int64] = mapped(offsets, OFFSET_TYPE)  # (documents + 1,)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def intact(self) -> bool:
        """Whether the two files belong together: a truncated one does not."""
        return len(self.offsets) > 0 and int(self.offsets[-1]) == len(self.tokens)


def mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The file as an array, read where it is touched."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


class StoreWriter:
    """Writes a `TokenStore`, document after document, in constant memory; without `eos_token_id` they end as they do.

    Args:
        beginning: what every document begins with.
    """

    def __init__(
        self, folder: Path, name: str, dtype: np.dtype[Any], eos_token_id: int | None, beginning: tuple[int, ...] = ()
    ) -> None:
        tokens, offsets = _paths(folder, name)
        self._tokens, self._offsets = tokens.open("wb"), offsets.open("wb")
        self._dtype = dtype
        self._beginning = list(beginning)
        self._eos = [] if eos_token_id is None else [eos_token_id]
        self._start = 0
        self.num_tokens = 0
        self.num_documents = 0
        self._offsets.write(np.zeros(1, OFFSET_TYPE).tobytes())

    def extend(self, ids: list[int]) -> None:
        """Add token ids to the document at hand."""
        if ids and self.num_tokens == self._start:
            ids = [*self._beginning, *ids]
        self._tokens.write(np.array(ids, self._dtype).tobytes())
        self.num_tokens += len(ids)

    def end_document(self) -> bool:
        """Close the document at hand, with its EOS. False, and nothing written, if it has no token."""
        if self.num_tokens == self._start:
            return False
        self.extend(self._eos)
        self.num_documents += 1
        self._start = self.num_tokens
        self._offsets.write(np.array([self.num_tokens], OFFSET_TYPE).tobytes())
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._tokens, self._offsets):
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
            file.close()
