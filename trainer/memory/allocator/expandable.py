"""The caching allocator with expandable_segments:True: segments that grow page by page, and shrink under pressure.

What differs from fixed segments, after c10/cuda/CUDACachingAllocator.cpp (its "Note [Expandable Segments]"):

1. A segment is addresses only, enough for 9/8 of the device; a pool gets another when those run out. Memory is mapped
   behind them in whole pages: 2 MiB in the small pool, 20 MiB in the large one.
2. When no free block serves a request, pages are mapped at the lowest address where it fits: on a stretch that begins
   with an unmapped block, or the free block right before one, and goes on over free and unmapped blocks. New pages
   become one with the free blocks beside them.
3. In best fit, a free block with an unmapped one right after it gives way to the next larger free block, as long as
   that one is smaller than the two together (it counts with what it can grow into, too).
4. The rest of a block is split off from 512 B on, in the large pool too.
5. When the device refuses, every page that lies wholly in a free block is unmapped, also what was mapped for the
   refused request until then; a segment without any memory is given up.

The limit is what the device has, and a page over it is refused. PyTorch's `set_per_process_memory_fraction` is another
thing: it is compared with the request before the pages are counted, so they can go over it.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from galore.trainer.memory.allocator.blocks import Block, Pool
from galore.trainer.memory.allocator.segments import UNIT, CachingAllocator, rounded

BOUNDLESS = 2**60  # bytes of a device without limit
_address = attrgetter("address")


class ExpandableAllocator(CachingAllocator):
    """Serves requests and frees as PyTorch would with expandable segments, on a device with `limit` bytes.

    Attributes:
        unmapped: the blocks of each pool without memory, by ascending address; the others are those of
            CachingAllocator.
    """

    least_rest_large = UNIT

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self.unmapped: dict[Pool, list[Block]] = {self.small: [], self.large: []}

    def _cached(self, pool: Pool, size: int) -> Block | None:
        blocks, index = pool.blocks, pool.first_of(size)
        if index == len(blocks):
            return None
        while index + 1 < len(blocks) and _expanded(blocks[index + 1]) < _expanded(blocks[index]):
            index += 1
        return pool.pop(index)

    def _new(self, pool: Pool, size: int) -> Block | None:
        """The lowest stretch with `size` bytes, mapped, as one block in no pool; None where the device refuses."""
        block = self._lowest(pool, size)
        if not block.mapped and not self._map(pool, block, size):
            return None
        while (missing := size - block.size) > 0:
            gap = block.next
            assert gap is not None  # the stretch goes on; with an unmapped block, as free neighbours are one already
            if not self._map(pool, gap, missing):
                return None
            block = gap
        pool.remove(block)
        return block

    def _lowest(self, pool: Pool, size: int) -> Block:
        """First block of the lowest stretch, free or unmapped, with room for `size` bytes."""
        for gap in self.unmapped[pool]:
            first = gap.prev if gap.prev is not None and gap.prev.free else gap
            if _has_room(first, size):
                return first
        return self._segment(pool)

    def _segment(self, pool: Pool) -> Block:
        device = BOUNDLESS if self.limit is None else self.limit
        segment = Block(self._next_address, rounded(device + device // 8, pool.granularity), mapped=False)
        self._next_address = rounded(segment.end, self.large.granularity)
        self.unmapped[pool].append(segment)
        return segment

    def _map(self, pool: Pool, gap: Block, nbytes: int) -> bool:
        """Map as many pages of an unmapped block as `nbytes` need or it has; cache them with the free blocks beside."""
        size = min(gap.size, rounded(nbytes, pool.granularity))
        if not self._reserve(size):
            return False
        unmapped = self.unmapped[pool]
        unmapped.remove(gap)
        if size < gap.size:
            insort(unmapped, gap.split(size), key=_address)
        gap.mapped = True
        pool.put_back(gap)
        return True

    def _release(self, pool: Pool) -> None:
        """Give every page that lies wholly in a free block back to the device."""
        for block in list(pool.blocks):
            start = rounded(block.address, pool.granularity)
            end = block.end // pool.granularity * pool.granularity
            if start < end:
                pool.remove(block)
                self._unmap(pool, _cut_out(pool, block, start, end))

    def _unmap(self, pool: Pool, block: Block) -> None:
        unmapped = self.unmapped[pool]
        self.reserved -= block.size
        block.mapped = False
        for neighbour in (block.prev, block.next):
            if neighbour is not None and not neighbour.mapped:
                unmapped.remove(neighbour)
                block.absorb(neighbour)
        if not block.alone:
            insort(unmapped, block, key=_address)


def _cut_out(pool: Pool, block: Block, start: int, end: int) -> Block:
    """The part of a free block between two addresses; what lies before and after goes to the pool."""
    if block.address < start:
        before, block = block, block.split(start - block.address)
        pool.add(before)
    if end < block.end:
        pool.add(block.split(end - start))
    return block


def _expanded(block: Block) -> int:
    """Bytes of a free block and of the unmapped one that it can grow into."""
    after = block.next
    return block.size if after is None or after.mapped else block.size + after.size


def _has_room(block: Block | None, size: int) -> bool:
    while block is not None and block.free and size > 0:
        size -= block.size
        block = block.next
    return size <= 0
