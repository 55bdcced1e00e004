from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.stream.blocks import Blocks, BlockStart
from galore.trainer.data.text.hub import State

BEGINNING = BlockStart(0, 0, None)


def source(size: int) -> Blocks:
    """Texts 0 … 99 whose state is the number of texts read."""

    def read(state: State | None) -> Iterator[tuple[str, State]]:
        for number in range(state["read"] if state else 0, 100):
            yield str(number), {"read": number + 1}

    return Blocks(read, size, seed=4, shuffle=True)


def take(blocks: Blocks, start: BlockStart, count: int) -> list[tuple[BlockStart, list[str]]]:
    return list(itertools.islice(blocks.from_block(start), count))


def test_blocks_hold_everything_once_per_epoch() -> None:
    blocks = take(source(30), BEGINNING, 8)
    assert [len(texts) for _, texts in blocks] == [30, 30, 30, 10] * 2
    assert [(start.epoch, start.number) for start, _ in blocks] == [(i // 4, i) for i in range(8)]
    for epoch in (blocks[:4], blocks[4:]):
        assert sorted(int(text) for _, texts in epoch for text in texts) == list(range(100))


def test_each_block_has_an_order_of_its_own() -> None:
    blocks = take(source(20), BEGINNING, 15)
    orders = {tuple(int(text) % 20 for text in texts) for _, texts in blocks}
    assert len(orders) == 15


def test_every_block_can_be_read_again() -> None:
    blocks = take(source(30), BEGINNING, 9)
    for number, (start, texts) in enumerate(blocks):
        again = take(source(30), start, 9 - number)
        assert again[0][1] == texts
        assert [texts for _, texts in again] == [texts for _, texts in blocks[number:]]


def test_a_block_that_ends_with_the_source() -> None:
    blocks = take(source(50), BEGINNING, 5)
    assert [(start.epoch, len(texts)) for start, texts in blocks] == [(0, 50), (0, 50), (1, 50), (1, 50), (2, 50)]


def test_long_texts_end_a_block_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.data.stream.blocks.BLOCK_CHARS", 15)
    assert [len(texts) for _, texts in take(source(30), BEGINNING, 3)] == [13, 8, 8]


def test_a_source_without_text_is_refused() -> None:
    empty = Blocks(lambda state: iter(()), 10, 0, True)
    with pytest.raises(UserError, match="no document"):
        next(empty.from_block(BEGINNING))
