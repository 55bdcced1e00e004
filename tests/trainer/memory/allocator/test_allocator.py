from __future__ import annotations

import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.memory.allocator.allocator import Replay, replay
from galore.trainer.memory.allocator.blocks import Block
from galore.trainer.memory.allocator.expandable import ExpandableAllocator
from galore.trainer.memory.allocator.segments import CachingAllocator, OutOfMemory, rounded

MIB = 2**20
PYTORCH = [  # seed, expandable, limit in MiB; event without room, peak allocated, peak reserved, retries
    (9, False, None, None, 186921472, 343932928, 0),
    (9, False, 215, None, 186705920, 207618048, 3),
    (48, False, 194, None, 144318464, 203423744, 3),
    (37, False, 234, 485, 199441920, 245366784, 4),
    (11, True, None, None, 292046848, 362807296, 0),
    (11, True, 329, None, 292046848, 341835776, 2),
    (37, True, 233, None, 198442496, 239075328, 2),
    (58, True, 242, 429, 228876800, 253755392, 4),
    (26, True, 183, 383, 149814784, 190840832, 3),
]


def random_trace(seed: int, count: int = 600) -> tuple[list[int], list[int]]:
    """Sizes of 32 B to 64 MiB, and events: births and deaths in almost equal numbers."""
    draw = random.Random(seed).random
    sizes: list[int] = []
    events: list[int] = []
    live: list[int] = []
    for _ in range(count):
        if live and draw() < 0.49:
            events.append(-live.pop(int(draw() * len(live))))
        else:
            scale = 2 ** int(5 + 21 * draw())
            sizes.append(scale + int(draw() * scale))
            events.append(len(sizes))
            live.append(len(sizes))
    return sizes, events


@pytest.mark.parametrize("expandable", [False, True])
def test_peaks_of_a_trace(expandable: bool) -> None:
    sizes, events = [4 * MIB, 6 * MIB, 100, 9 * MIB], [1, 2, -1, 3, -2, 4, -4]
    assert replay(sizes, events, expandable=expandable) == Replay(10 * MIB, 22 * MIB, 1, None, 0)


def test_of_equal_peaks_the_first_counts() -> None:
    assert replay([512, 512], [1, -1, 2, -2]).peak_event == 0


def test_the_replay_ends_where_memory_does() -> None:
    found = replay([12 * MIB, 600, 8 * MIB, 512], [1, 2, 3, -1, 4], limit=33 * MIB)
    assert found == Replay(12 * MIB + 1024, 14 * MIB, 1, 2, 1)


@pytest.mark.parametrize("expandable", [False, True])
def test_no_events(expandable: bool) -> None:
    assert replay([], [], expandable=expandable) == Replay(0, 0, 0, None, 0)


@pytest.mark.parametrize(("seed", "expandable", "limit", "event", "allocated", "reserved", "retries"), PYTORCH)
def test_answers_of_pytorchs_own_allocator(
    seed: int, expandable: bool, limit: int | None, event: int | None, allocated: int, reserved: int, retries: int
) -> None:
    """PyTorch 2.14.1, linked to a CUDA runtime that only counts bytes, on a device with `limit` MiB of memory."""
    found = replay(*random_trace(seed), limit=limit and limit * MIB, expandable=expandable)
    assert (found.oom_event, found.peak_allocated, found.peak_reserved, found.retries) == (
        event,
        allocated,
        reserved,
        retries,
    )


def test_training_steps_as_pytorch_serves_them() -> None:
    root = Path(os.environ.get("GALORE_TEST_DATA") or Path(__file__).parents[5] / "shared" / "data")
    path = root / "allocator" / "pytorch-2.14.1-replays.json.gz"
    if not path.is_file():
        pytest.skip("set GALORE_TEST_DATA to a folder with allocator/pytorch-2.14.1-replays.json.gz")
    with gzip.open(path, "rt") as file:
        recorded = json.load(file)
    assert sum(len(each["results"]) for each in recorded) == 50
    for each in recorded:
        sizes, events = numbered(each["trace"])
        for wanted in each["results"]:
            found = replay(sizes, events, limit=wanted["limit_bytes"], expandable=wanted["expandable_segments"])
            assert found.oom_event == wanted["oom_at_event"], each["name"]
            assert found.peak_allocated == wanted["peak_allocated"], each["name"]
            assert found.peak_reserved == wanted["peak_reserved"], each["name"]
            assert found.retries == wanted["alloc_retries"], each["name"]


def numbered(trace: list[Any]) -> tuple[list[int], list[int]]:
    """Sizes and events of a trace of (±1, key, bytes)."""
    sizes: list[int] = []
    events: list[int] = []
    number: dict[int, int] = {}
    for sign, key, nbytes in trace:
        if sign > 0:
            sizes.append(nbytes)
            number[key] = len(sizes)
        events.append(sign * number[key])
    return sizes, events


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_holds_after_every_event(seed: int, tight: bool, expandable: bool) -> None:
    sizes, events = random_trace(seed, 300)
    free = replay(sizes, events, expandable=expandable)
    limit = (free.peak_allocated + free.peak_reserved) // 2 if tight else None
    allocator = ExpandableAllocator(limit) if expandable else CachingAllocator(limit)
    for event in events:
        try:
            allocator.malloc(event, sizes[event - 1]) if event > 0 else allocator.free(-event)
        except OutOfMemory:
            assert tight
            break
        check(allocator, sizes)
    for key in list(allocator.live):
        allocator.free(key)
        check(allocator, sizes)
    assert allocator.allocated == 0
    assert expandable or all(block.alone for block in blocks(allocator))


def check(allocator: CachingAllocator, sizes: list[int]) -> None:
    everything = blocks(allocator)
    assert sum(block.size for block in everything if block.mapped) == allocator.reserved
    assert sum(block.size for block in allocator.live.values()) == allocator.allocated <= allocator.reserved
    assert allocator.limit is None or allocator.peak_reserved <= allocator.limit
    for left, right in pairwise(everything):
        tiles = left.next is right and right.prev is left and left.end == right.address
        assert tiles or (left.next is right.prev is None and left.end <= right.address)
        assert not (tiles and left.free and right.free and left.mapped == right.mapped), "two that should be one"
    for key, block in allocator.live.items():
        kept = block.size - rounded(sizes[key - 1])
        assert 0 <= kept <= (0 if isinstance(allocator, ExpandableAllocator) or block.size <= MIB else MIB)


def blocks(allocator: CachingAllocator) -> list[Block]:
    """All blocks, by address."""
    found = [*allocator.live.values(), *allocator.small.blocks, *allocator.large.blocks]
    if isinstance(allocator, ExpandableAllocator):
        found += [block for unmapped in allocator.unmapped.values() for block in unmapped]
    return sorted(found, key=lambda block: block.address)
