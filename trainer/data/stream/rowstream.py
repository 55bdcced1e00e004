"""Rows cut from a stream of documents, with a position from which the same rows follow again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.mixture import ENDLESS
from galore.trainer.data.rows.packing import restarting
from galore.trainer.data.stream.blocks import Blocks, BlockStart
from galore.trainer.data.tokens.store import Ids
from galore.trainer.data.tokens.tokenize import encode_documents
from galore.trainer.data.tokens.tokenizer import Frame

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Position:
    """Where the next row begins: a token of a document of a block, and the number of that row."""

    start: BlockStart
    document: int
    token: int
    row: int

    def to_json(self) -> dict[str, Any]:
        return {"block": self.start.to_json(), "document": self.document, "token": self.token, "row": self.row}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Position:
        return cls(BlockStart(**value["block"]), value["document"], value["token"], value["row"])


BEGINNING = Position(BlockStart(0, 0, None), 0, 0, 0)


class Row(NamedTuple):
    """(max_length,) each; `positions` of each token in its document, where the documents of a row are isolated."""

    input_ids: Ids
    labels: Ids
    positions: Ids | None = None


class Opened(Protocol):
    """Rows one after the other, the next one always known by its `position`. Kinds: `RowStream`, `ExampleStream`."""

    position: Position

    def seek(self, position: Position) -> None:
        """Continue at `position`; nothing is read before the next row is asked for."""

    def next_row(self) -> Row: ...


class StreamRows:
    """See `packing.Rows`: rows of a stream under numbers that count them over all epochs. They are asked for in order;
    those that were read last may be asked for again.

    Args:
        told: what is entered while rows are read, so that an error says which source it is about.
    """

    def __init__(self, opened: Opened, told: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._opened, self._told = opened, told
        self._numbers, self._last = np.empty(0, np.int64), list[Row]()

    def __len__(self) -> int:
        return ENDLESS

    @property
    def position(self) -> Position:
        return self._opened.position

    def seek(self, position: Position) -> None:
        """Continue at `position`."""
        self._numbers, self._last = np.empty(0, np.int64), []
        self._opened.seek(position)

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Raises ValueError unless the numbers are the next ones, or the last ones again."""
        rows = self._of(numbers)
        return np.stack([row.input_ids for row in rows]), np.stack([row.labels for row in rows])

    def positions(self, numbers: Ids) -> Ids | None:
        own = [row.positions for row in self._of(numbers) if row.positions is not None]
        return np.stack(own) if own else None

    def extras(self, numbers: Ids) -> None:
        """No numbers: they come with examples that are kept."""

    def _of(self, numbers: Ids) -> list[Row]:
        if not np.array_equal(numbers, self._numbers):
            stands = self.position.row
            if not np.array_equal(numbers, stands + np.arange(len(numbers))):
                raise ValueError(f"row {numbers[0]} of a stream that stands before row {stands}")
            with self._told():
                self._last = [self._opened.next_row() for _ in numbers]
            self._numbers = numbers
        return self._last

    @property
    def summary(self) -> dict[str, Any]:
        """What it comes to is known to nobody."""
        return {}

    @property
    def used(self) -> int:
        return 0

    def lengths(self) -> Iterator[Ids]:
        return iter(())


class RowStream:
    """See `Opened`. Rows of `max_length` out of a stream of documents."""

    def __init__(
        self,
        blocks: Blocks,
        backend: Tokenizer,
        eos: int,
        max_length: int,
        frame: Frame | None,
        beginning: tuple[int, ...] = (),
        isolated: bool = False,
    ) -> None:
        """`beginning` is what documents begin with in packed rows; rows of one document have it in their `frame`."""
        self._blocks, self._backend, self._eos, self._beginning = blocks, backend, eos, beginning
        self._isolated = isolated
        self._max_length, self._frame = max_length, frame  # a frame makes rows of `packing: paper`
        self.seek(BEGINNING)

    def seek(self, position: Position) -> None:
        """Continue at `position`; nothing is read before the next row is asked for."""
        self.position = position
        self._rest: Ids | None = None  # of the document at hand, from the position on
        self._documents = self._tokenized(position)

    def _tokenized(self, position: Position) -> Iterator[tuple[BlockStart, int, list[int]]]:
        first = position.document
        for block, texts in self._blocks.from_block(position.start):
            for index, ids in enumerate(encode_documents(self._backend, texts[first:]), start=first):
                yield block, index, ids
            first = 0

    def next_row(self) -> Row:
        row = self._packed() if self._frame is None else self._paper(self._frame)
        at = self.position
        self.position = Position(at.start, at.document, at.token, at.row + 1)
        return row

    def _packed(self) -> Row:
        parts, starts, missing = list[Ids](), list[int](), self._max_length
        while missing:
            part = self._take(missing)
            parts.append(part)
            if self.position.token == len(part):
                starts.append(self._max_length - missing)
            missing -= len(part)
        input_ids = np.concatenate(parts)
        return Row(input_ids, input_ids, restarting(self._max_length, [starts])[0] if self._isolated else None)

    def _paper(self, frame: Frame) -> Row:
        document = np.empty(0, np.int64)
        while not len(document):
            document = self._take(None)
        ids = frame.around(document[:-1], self._max_length)
        padding = self._max_length - len(ids)
        padded = (np.pad(ids, (0, padding), constant_values=fill) for fill in (frame.pad, IGNORED))
        return Row(*padded)

    def _take(self, count: int | None) -> Ids:
        """The next tokens of the document at hand, `count` at most; none at its end, when the next one is opened."""
        if self._rest is None or not len(self._rest):
            self._open_document()
        assert self._rest is not None
        part, self._rest = self._rest[:count], self._rest[len(self._rest[:count]) :]
        at = self.position
        self.position = Position(at.start, at.document, at.token + len(part), at.row)
        return part

    def _open_document(self) -> None:
        skipped = self.position.token if self._rest is None else 0
        block, index, ids = next(self._documents)
        tokens = np.array([*self._beginning, *ids, self._eos] if ids else [], np.int64)
        self._rest = tokens[skipped:]
        self.position = Position(block, index, skipped, self.position.row)
