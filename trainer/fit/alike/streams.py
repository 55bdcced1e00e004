"""Blocks of weights that wait on the host, few of them traced: those left out come to the device all the same.

Which copies a block asks for depends on which came before it. So each is asked for as often as in a run of all blocks,
one by one: in a forward and a backward on the way between the traced blocks on both sides, in the update by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from galore.trainer.fit.alike.grown import Blocks, UnlikeError
from galore.trainer.host.blocks import StreamedBlocks
from galore.trainer.host.places import Copy


@contextmanager
def all_come(
    streamed: StreamedBlocks, blocks: Blocks, once: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """A context in which the blocks that are left out cross the bus, too.

    Args:
        once: a context in which what is done is done for one block, not for those left out as well.

    Raises:
        UnlikeError: in the end, one of them has not come as often as the pattern.
    """
    turns, last = Counter[int](), blocks.kept[0]
    arrive, carry_out = streamed.arrive, streamed.carry_out

    def arrived(number: int) -> None:
        nonlocal last
        turns[number] += number != last
        last = number
        arrive(number)

    def arrives(number: int) -> None:
        # in a backward that updates: the block before, which is like those in between, was written to there
        changed = last in streamed.places.changed
        for each in blocks.between(last, number):
            arrived(each)
            if changed:
                streamed.places.changed.add(each)
        arrived(number)

    def each_once(copies: Iterable[Copy]) -> None:
        with once():
            carry_out(copies)

    vars(streamed).update(arrive=arrives, carry_out=each_once)
    yield
    if unlike := [block for block in blocks.left_out if turns[block] != turns[blocks.pattern]]:
        raise UnlikeError(f"blocks {unlike} and block {blocks.pattern} come from the host for different reasons")
