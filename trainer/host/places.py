"""Which blocks lie on the device, and what has to be copied when one is wanted: numbers only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Way = Literal["fetch", "send"]


class Copy(NamedTuple):
    """One block on its way to the device, or back to the host."""

    way: Way
    block: int


class Places:
    """`count` places for `blocks` blocks; block i lies in place i mod `count` or not at all.

    A block that was changed is sent back before another one takes its place.
    """

    def __init__(self, blocks: int, count: int) -> None:
        self.blocks, self.count = blocks, count
        self.holds: list[int | None] = [None] * count
        self.changed: set[int] = set()

    def arrive(self, block: int, ahead: Literal[1, -1]) -> Iterator[Copy]:
        """The copies that bring `block`, and those that come after it in the direction `ahead`, as many as fit."""
        for number in range(block, block + ahead * self.count, ahead):
            if 0 <= number < self.blocks:
                yield from self._put(number)

    def flush(self) -> Iterator[Copy]:
        """The copies after which the host has all that was changed."""
        for block in sorted(self.changed):
            yield Copy("send", block)
        self.changed.clear()

    def forget(self) -> None:
        """No block is there: the host has others now."""
        self.holds = [None] * self.count
        self.changed.clear()

    def _put(self, block: int) -> Iterator[Copy]:
        place = block % self.count
        old = self.holds[place]
        if old == block:
            return
        if old is not None and old in self.changed:
            self.changed.remove(old)
            yield Copy("send", old)
        self.holds[place] = block
        yield Copy("fetch", block)


def traffic(
    sizes: Sequence[int], count: int, micro_batches: int, trained: bool, sketches: bool = False
) -> dict[Way, int]:
    """Bytes each way over the bus in one optimizer step that follows another.

    Args:
        sizes: bytes of each block.
        trained: whether the update changes them.
        sketches: whether the micro-batches are gone through once more for the subspaces.
    """
    places = Places(len(sizes), count)
    _step(places, micro_batches, trained, sketches)
    moved: dict[Way, int] = {"fetch": 0, "send": 0}
    for way, block in _step(places, micro_batches, trained, sketches):
        moved[way] += sizes[block]
    return moved


def _step(places: Places, micro_batches: int, trained: bool, sketches: bool) -> list[Copy]:
    blocks = range(places.blocks)
    found: list[Copy] = []
    for _ in range(micro_batches * (2 if sketches else 1)):
        found += _through(places, blocks, 1)
        found += _through(places, reversed(blocks), -1)
    if trained:
        for block in blocks:
            found += places.arrive(block, 1)
            places.changed.add(block)
        found += places.flush()
    return found


def _through(places: Places, blocks: Iterable[int], ahead: Literal[1, -1]) -> Iterator[Copy]:
    for block in blocks:
        yield from places.arrive(block, ahead)
