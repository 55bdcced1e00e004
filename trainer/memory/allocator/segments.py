"""PyTorch's caching allocator on one stream, as it is by default: fixed segments, cut up and cached.

The rules, after c10/cuda/CUDACachingAllocator.cpp:

1. A request is rounded up to a multiple of 512 B.
2. Up to 1 MiB it is small, above it large; the two never share a segment, and each has its pool of free blocks.
3. The smallest free block that is large enough serves it; of equal ones the one with the lowest address.
4. When there is none, the device gives a new segment: 2 MiB for a small request; 20 MiB for a large one below 10 MiB,
   else the request rounded up to 2 MiB.
5. What a request leaves of its block becomes a free block of its own, from 512 B on in the small pool, above 1 MiB in
   the large one. A smaller rest stays with the request and counts as allocated.
6. A freed block becomes one with the free blocks right before and after it in its segment, and stays cached.
7. When the device refuses, every segment that is one free block goes back to it, and it is asked once more (a retry).
   When it refuses again, the request is out of memory.

Not modelled, as they are off by default: garbage_collection_threshold, max_split_size_mb, roundup_power2_divisions. The
addresses of new segments are the driver's own business; here they ascend.
"""

from __future__ import annotations

from galore.trainer.memory.allocator.blocks import Block, Pool

UNIT = 512
SMALL_REQUEST = 2**20
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
OWN_SEGMENT = 10 * 2**20
OWN_SEGMENT_UNIT = 2 * 2**20


def rounded(nbytes: int, unit: int = UNIT) -> int:
    """`nbytes` rounded up to a multiple of `unit`."""
    return -(-nbytes // unit) * unit


class OutOfMemory(Exception):  # noqa: N818
    """The device has not the memory for event number `event` (from 0) of those an allocator has seen."""

    def __init__(self, event: int, nbytes: int) -> None:
        super().__init__(f"no room for {nbytes} bytes at event {event}")
        self.event = event


class CachingAllocator:
    """Serves requests and frees as PyTorch would, on a device with `limit` bytes (None: boundless).

    Attributes:
        allocated, reserved: bytes handed out (with rounding), and taken from the device.
        peak_allocated, peak_reserved: the most of each so far.
        peak_event: the first event that reached `peak_allocated`.
        retries: how often cached memory went back to the device to make room.
        live: the blocks handed out, by key.
        small, large: the free blocks.
    """

    least_rest_large = SMALL_REQUEST + UNIT  # more than 1 MiB, and all sizes are multiples of the unit

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self.events = self.peak_event = self.retries = 0
        self.live: dict[int, Block] = {}
        self.small = Pool(SMALL_SEGMENT, UNIT)
        self.large = Pool(LARGE_SEGMENT, self.least_rest_large)
        self._next_address = 0

    def malloc(self, key: int, nbytes: int) -> None:
        """Hand out `nbytes` (above 0) under `key`.

        Raises:
            OutOfMemory: no room, even with all given back that can be; nothing was handed out.
            ValueError: no size above 0.
        """
        if nbytes <= 0:
            raise ValueError(f"a request needs a size above 0, not {nbytes}")
        size = rounded(nbytes)
        pool = self._pool(size)
        block = self._cached(pool, size) or self._new(pool, size) or self._retry(pool, size)
        if block.size - size >= pool.least_rest:
            pool.add(block.split(size))
        block.free = False
        self.live[key] = block
        self._count(block.size)

    def free(self, key: int) -> None:
        """Take back what is handed out under `key` (KeyError where nothing is)."""
        block = self.live.pop(key)
        pool = self._pool(block.size)
        self._count(-block.size)
        block.free = True
        pool.put_back(block)

    def _pool(self, size: int) -> Pool:
        """The pool of a request, or of a block handed out: a small one is never larger than asked for."""
        return self.small if size <= SMALL_REQUEST else self.large

    def _count(self, nbytes: int) -> None:
        self.allocated += nbytes
        if self.allocated > self.peak_allocated:
            self.peak_allocated, self.peak_event = self.allocated, self.events
        self.events += 1

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """The free block that fits best, out of the pool; None where none is large enough."""
        index = pool.first_of(size)
        return pool.pop(index) if index < len(pool.blocks) else None

    def _new(self, pool: Pool, size: int) -> Block | None:
        """A new segment as one block, in no pool yet; None where the device refuses."""
        nbytes = rounded(size, OWN_SEGMENT_UNIT) if size >= OWN_SEGMENT else pool.granularity
        if not self._reserve(nbytes):
            return None
        self._next_address += nbytes
        return Block(self._next_address - nbytes, nbytes)

    def _retry(self, pool: Pool, size: int) -> Block:
        self.retries += 1
        self._release(self.large)
        self._release(self.small)
        block = self._new(pool, size)
        if block is None:
            raise OutOfMemory(self.events, size)
        return block

    def _reserve(self, nbytes: int) -> bool:
        """Take `nbytes` from the device, if it has them."""
        if self.limit is not None and self.reserved + nbytes > self.limit:
            return False
        self.reserved += nbytes
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _release(self, pool: Pool) -> None:
        """Give the segments of a pool that are one free block back to the device."""
        for block in [block for block in pool.blocks if block.alone]:
            pool.remove(block)
            self.reserved -= block.size
