"""Rows of a fixed length out of stored documents: packed windows, or one document per row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.tokens.store import Ids, TokenStore
from galore.trainer.data.tokens.tokenizer import Frame

Extras = npt.NDArray[np.float32]


class Rows(Protocol):
    """Fixed-length sequences by number."""

    def __len__(self) -> int: ...

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        """input_ids and labels, each (b, max_length), of the rows `numbers` (b,)."""

    def positions(self, numbers: Ids) -> Ids | None:
        """(b, max_length), of each token in its document; None where documents see each other, or a row is one."""

    def extras(self, numbers: Ids) -> Extras | None:
        """(b, most), the numbers of each row for a second loss, nan behind them; None where no row has any."""

    @property
    def summary(self) -> dict[str, Any]:
        """JSON: what became of the tokens."""

    @property
    def used(self) -> int:
        """Tokens in all rows, padding apart."""

    def lengths(self) -> Iterator[Ids]:
        """Tokens of the documents as they are stored, a block of them at a time."""


class PackedRows:
    """Documents as they are stored, EOS at their end, cut into windows of `max_length`; the remainder is dropped."""

    def __init__(self, store: TokenStore, max_length: int, isolated: bool = False) -> None:
        self._store, self._tokens, self._max_length = store, store.tokens, max_length
        self._offsets = store.offsets
        self._isolated = isolated

    def __len__(self) -> int:
        return len(self._tokens) // self._max_length

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        starts = (numbers * self._max_length).tolist()
        rows = [self._tokens[start : start + self._max_length] for start in starts]
        input_ids = np.array(rows, np.int64).reshape(len(numbers), self._max_length)
        return input_ids, input_ids.copy()

    def positions(self, numbers: Ids) -> Ids | None:
        if not self._isolated:
            return None
        return restarting(self._max_length, [self._starts(int(number)) for number in numbers])

    def extras(self, numbers: Ids) -> None:
        """No numbers: they come with examples."""

    def _starts(self, number: int) -> Ids:
        """Where documents begin in a row, but for its first token, which may go on with one."""
        begin = number * self._max_length
        after = bisect_right(range(len(self._offsets)), begin, key=lambda at: int(self._offsets[at : at + 1][0]))
        starts = self._offsets[after : after + self._max_length] - begin  # a document has a token at least
        return starts[starts < self._max_length]

    @property
    def summary(self) -> dict[str, Any]:
        return {"sequences": len(self), "dropped_tokens": len(self._tokens) % self._max_length}

    @property
    def used(self) -> int:
        return len(self) * self._max_length

    def lengths(self) -> Iterator[Ids]:
        return self._store.lengths()


class PaperRows:
    """One document per row, truncated or padded, as in the GaLore paper's C4 runs: the row is what
    `tokenizer(text, truncation=True, padding="max_length")` gives, and padding is no target."""

    def __init__(self, store: TokenStore, max_length: int, frame: Frame) -> None:
        self._store, self._max_length, self._frame = store, max_length, frame

    def __len__(self) -> int:
        return self._store.num_documents

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        input_ids = np.full((len(numbers), self._max_length), self._frame.pad, np.int64)
        labels = np.full_like(input_ids, IGNORED)
        for row, number in enumerate(numbers):
            ids = self._row(int(number))
            input_ids[row, : len(ids)] = labels[row, : len(ids)] = ids
        return input_ids, labels

    def positions(self, numbers: Ids) -> Ids | None:
        return None

    def extras(self, numbers: Ids) -> None:
        """No numbers: they come with examples."""

    def _row(self, number: int) -> Ids:
        start, stop = self._store.span(number)
        stop = min(stop - 1, start + self._max_length)  # without the stored EOS
        return self._frame.around(self._store.tokens[start:stop], self._max_length)

    @property
    def summary(self) -> dict[str, Any]:
        room = self._frame.room(self._max_length)
        dropped = sum(int(np.maximum(lengths - 1 - room, 0).sum()) for lengths in self.lengths())
        return {"sequences": len(self), "dropped_tokens": dropped}

    @property
    def used(self) -> int:
        room = self._frame.room(self._max_length)
        around = self._max_length - room
        return sum(int((np.minimum(lengths - 1, room) + around).sum()) for lengths in self.lengths())

    def lengths(self) -> Iterator[Ids]:
        return self._store.lengths()


def restarting(max_length: int, rows: Sequence[Sequence[int] | Ids]) -> Ids:
    """Positions (b, max_length) that begin anew where each of `rows` says, and at its first token."""
    begins = np.zeros((len(rows), max_length), np.int64)
    for row, starts in enumerate(rows):
        begins[row, starts] = starts
    return np.arange(max_length) - np.maximum.accumulate(begins, axis=1)


def padded(rows: Sequence[Extras]) -> Extras:
    """Numbers of several rows, (b, most of one), nan behind those that have fewer."""
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan, np.float32)
    for row, each in enumerate(rows):
        found[row, : len(each)] = each
    return found


def rows_of(store: TokenStore, max_length: int, frame: Frame | None, isolated: bool = False) -> Rows:
    """Packed windows, or with a frame one document per row."""
    return PackedRows(store, max_length, isolated) if frame is None else PaperRows(store, max_length, frame)
