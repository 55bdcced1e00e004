"""Blocks of device memory, linked to their neighbours, and the free ones of a pool in best-fit order."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of addresses of one segment: the blocks of a segment tile it, each linked to the ones beside it.

    Attributes:
        address, size: bytes.
        free: not handed out. A block that is not mapped is free too.
        mapped: memory stands behind the addresses; always so but in an expandable segment.
    """

    address: int
    size: int
    free: bool = True
    mapped: bool = True
    prev: Block | None = field(default=None, repr=False)
    next: Block | None = field(default=None, repr=False)

    @property
    def end(self) -> int:
        return self.address + self.size

    @property
    def alone(self) -> bool:
        """Whether it is the whole segment."""
        return self.prev is None and self.next is None

    def split(self, size: int) -> Block:
        """Keep the first `size` bytes; the rest becomes a free block of its own, which is returned."""
        rest = Block(self.address + size, self.size - size, True, self.mapped, self, self.next)
        if self.next is not None:
            self.next.prev = rest
        self.next = rest
        self.size = size
        return rest

    def absorb(self, neighbour: Block) -> None:
        """Take over the block right before or right after this one, which is a block no more."""
        self.size += neighbour.size
        if neighbour is self.prev:
            self.address = neighbour.address
            self.prev = neighbour.prev
            if self.prev is not None:
                self.prev.next = self
        else:
            self.next = neighbour.next
            if self.next is not None:
                self.next.prev = self


class Pool:
    """The free, mapped blocks for small or for large requests: smallest first, of equal ones the lowest address.

    Args:
        granularity: bytes of a segment, and of a page where segments expand.
        least_rest: bytes that must be left over for a block to be split.
    """

    def __init__(self, granularity: int, least_rest: int) -> None:
        self.granularity = granularity
        self.least_rest = least_rest
        self.blocks: list[Block] = []
        self._keys: list[tuple[int, int]] = []  # of the blocks, in step

    def add(self, block: Block) -> None:
        key = (block.size, block.address)
        index = bisect_left(self._keys, key)
        self._keys.insert(index, key)
        self.blocks.insert(index, block)

    def remove(self, block: Block) -> None:
        self.pop(bisect_left(self._keys, (block.size, block.address)))

    def pop(self, index: int) -> Block:
        del self._keys[index]
        return self.blocks.pop(index)

    def first_of(self, size: int) -> int:
        """Index of the smallest free block with at least `size` bytes; the number of blocks where there is none."""
        return bisect_left(self._keys, (size, 0))

    def put_back(self, block: Block) -> None:
        """Add a block, made one with the free blocks beside it; unmapped ones stay apart."""
        for neighbour in (block.prev, block.next):
            if neighbour is not None and neighbour.free and neighbour.mapped:
                self.remove(neighbour)
                block.absorb(neighbour)
        self.add(block)
