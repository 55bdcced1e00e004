"""A shuffled stream whose position is a few numbers: blocks of documents, each permuted by (seed, block)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.order import permute
from galore.trainer.data.text.hub import State

BLOCK_CHARS = 1 << 28
"""A block ends here at the latest, so that long documents do not fill the memory."""

Reader = Callable[[State | None], Iterator[tuple[str, State]]]


@dataclass(frozen=True)
class BlockStart:
    """Where a block begins: after `state` in the source (None: its first row); `number` counts over all epochs."""

    epoch: int
    number: int
    state: State | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Blocks:
    """Documents of an endless stream. When the source ends, the next epoch begins at its first row.

    A shuffle buffer that is topped up row by row cannot be restored without storing its content. A block can: it is
    read again from where it began and permuted again by (seed, number). The price is a shuffle that does not reach
    beyond its block, and `size` documents read again on resume.
    """

    read: Reader
    size: int  # documents per block
    seed: int
    shuffle: bool

    def from_block(self, start: BlockStart) -> Iterator[tuple[BlockStart, list[str]]]:
        """The block at `start` and all after it, permuted, without end.

        Raises:
            UserError: the source has no document at all.
        """
        while True:
            number = start.number
            for block, texts in self._epoch(start):
                yield block, [texts[index] for index in self._order(block.number, len(texts))]
                number = block.number + 1
            if start.state is None and number == start.number:
                fix = "check data.split, data.text_field and data.validation_fraction"
                raise UserError("the stream has no document to train on", where="data.path", fix=fix)
            start = BlockStart(start.epoch + 1, number, None)

    def _order(self, number: int, count: int) -> list[int]:
        positions = np.arange(count, dtype=np.int64)
        if self.shuffle:
            positions = permute(positions, count, self.seed, np.full(count, number, np.int64))
        return [int(position) for position in positions]

    def _epoch(self, start: BlockStart) -> Iterator[tuple[BlockStart, list[str]]]:
        texts, size, state = list[str](), 0, start.state
        for text, state in self.read(start.state):
            texts.append(text)
            size += len(text)
            if len(texts) >= self.size or size >= BLOCK_CHARS:
                yield start, texts
                start, texts, size = BlockStart(start.epoch, start.number + 1, state), [], 0
        if texts:
            yield start, texts
