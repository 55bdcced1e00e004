"""Rows of whole examples out of a stream of conversations, with a position from which the same rows follow again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.packing import restarting
from galore.trainer.data.stream.blocks import Blocks, BlockStart
from galore.trainer.data.stream.rowstream import BEGINNING, Position, Row
from galore.trainer.data.text.quality import BadRow, BadRows
from galore.trainer.data.tokens.chat import ChatEncoder, Example

ENCODED_TOGETHER = 256


class ExampleStream:
    """See `rowstream.RowStream`. A row takes the next examples as long as they fit (next fit), or one if not `packed`.

    An example longer than a row is cut at its end; one with no target left in it is skipped.
    """

    def __init__(
        self,
        blocks: Blocks,
        chat: ChatEncoder,
        bad: BadRows,
        *,
        max_length: int,
        pad: int,
        packed: bool,
        isolated: bool = False,
    ) -> None:
        self._blocks, self._chat, self._bad = blocks, chat, bad
        self._max_length, self._pad, self._packed, self._isolated = max_length, pad, packed, isolated
        self.seek(BEGINNING)

    def seek(self, position: Position) -> None:
        """Continue at `position`; nothing is read before the next row is asked for."""
        self.position = position
        self._next: Example | None = None  # the one at the position
        self._examples = self._encoded(position)

    def next_row(self) -> Row:
        input_ids = np.full(self._max_length, self._pad, np.int64)
        labels = np.full_like(input_ids, IGNORED)
        at, starts = 0, list[int]()
        example = self._peek()
        while not at or (self._packed and at + len(example.ids) <= self._max_length):
            here = slice(at, at + len(example.ids))
            input_ids[here] = example.ids
            labels[here] = np.where(example.targets, example.ids, IGNORED)
            at, self._next = here.stop, None
            starts += [at] if at < self._max_length else []
            example = self._peek()
        now = self.position
        self.position = Position(now.start, now.document, 0, now.row + 1)
        return Row(input_ids, labels, restarting(self._max_length, [starts])[0] if self._isolated else None)

    def _peek(self) -> Example:
        """The next example, not yet taken; the position is where it stands."""
        if self._next is None:
            block, document, self._next = next(self._examples)
            self.position = Position(block, document, 0, self.position.row)
        return self._next

    def _encoded(self, position: Position) -> Iterator[tuple[BlockStart, int, Example]]:
        first, epoch = position.document, position.start.epoch
        for block, texts in self._blocks.from_block(position.start):
            for start in range(first, len(texts), ENCODED_TOGETHER):
                for index, example in self._good(block, start, texts[start : start + ENCODED_TOGETHER]):
                    epoch = block.epoch
                    yield block, index, example
            if block.epoch > epoch + 1:
                fix = "check the columns that section data names, and data.max_length"
                raise UserError("no row of the stream can be trained on", where="data.path", fix=fix)
            first = 0

    def _good(self, block: BlockStart, first: int, texts: Sequence[str]) -> Iterator[tuple[int, Example]]:
        places = [f"block {block.number} of the stream, document {first + index}" for index in range(len(texts))]
        for index, example in enumerate(self._chat.encode(texts, places)):
            if isinstance(example, BadRow):
                self._bad.add(example, places[index])
                continue
            self._bad.noted.update(example.notes)
            ids, targets = example.ids[: self._max_length], example.targets[: self._max_length]
            if targets.any():
                yield first + index, Example(ids, targets)
