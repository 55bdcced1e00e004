"""What PyTorch's CUDA caching allocator takes from the device for a trace of allocations, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from galore.trainer.memory.allocator.expandable import ExpandableAllocator
from galore.trainer.memory.allocator.segments import CachingAllocator, OutOfMemory

__all__ = ["OutOfMemory", "Replay", "replay"]


@dataclass(frozen=True)
class Replay:
    """What a trace came to, up to its end or to where memory ran out.

    Attributes:
        peak_allocated: most bytes handed out at once, as torch.cuda.max_memory_allocated tells.
        peak_reserved: most bytes taken from the device at once, as torch.cuda.max_memory_reserved tells.
        peak_event: index of the first event with `peak_allocated` (0 where no event allocated).
        oom_event: index of the event that found no room and ended the replay; None where all did.
        retries: how often cached memory went back to the device to make room (num_alloc_retries of PyTorch).
    """

    peak_allocated: int
    peak_reserved: int
    peak_event: int
    oom_event: int | None
    retries: int


def replay(
    sizes: Sequence[int], events: Sequence[int], *, limit: int | None = None, expandable: bool = False
) -> Replay:
    """Replay a trace on one stream, beginning with an empty allocator.

    Args:
        sizes: bytes asked for by each allocation, above 0.
        events: in order, i + 1 where allocation i is born and -(i + 1) where it dies.
        limit: bytes that the device can give; None is boundless.
        expandable: with PyTorch's setting expandable_segments:True.
    """
    allocator = ExpandableAllocator(limit) if expandable else CachingAllocator(limit)
    oom_event = None
    try:
        for event in events:
            if event > 0:
                allocator.malloc(event, sizes[event - 1])
            else:
                allocator.free(-event)
    except OutOfMemory as error:
        oom_event = error.event
    return Replay(allocator.peak_allocated, allocator.peak_reserved, allocator.peak_event, oom_event, allocator.retries)
