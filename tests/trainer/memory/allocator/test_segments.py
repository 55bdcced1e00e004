from __future__ import annotations

from itertools import permutations

import pytest

from galore.trainer.memory.allocator.segments import CachingAllocator, OutOfMemory

MIB = 2**20


def serve(*sizes: int, limit: int | None = None) -> CachingAllocator:
    """An allocator that handed out `sizes` under the keys 0, 1, …"""
    allocator = CachingAllocator(limit)
    for key, size in enumerate(sizes):
        allocator.malloc(key, size)
    return allocator


@pytest.mark.parametrize(
    ("nbytes", "rounded"), [(1, 512), (512, 512), (513, 1024), (MIB - 1, MIB), (5 * MIB + 1, 5 * MIB + 512)]
)
def test_a_request_is_rounded_up_to_512_bytes(nbytes: int, rounded: int) -> None:
    assert serve(nbytes).allocated == rounded


@pytest.mark.parametrize(
    ("nbytes", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (21 * MIB, 22 * MIB),
    ],
)
def test_the_size_of_a_new_segment(nbytes: int, segment: int) -> None:
    assert serve(nbytes).reserved == segment


def test_small_and_large_requests_share_no_segment() -> None:
    assert serve(2 * MIB, 512).reserved == 20 * MIB + 2 * MIB
    assert serve(512, 2 * MIB).reserved == 2 * MIB + 20 * MIB


def test_a_large_block_keeps_a_rest_up_to_1_mib() -> None:
    kept = serve(11 * MIB)  # from a segment of 12 MiB
    assert (kept.allocated, kept.large.blocks) == (12 * MIB, [])
    split = serve(11 * MIB - 512)
    assert split.allocated == 11 * MIB - 512
    assert [block.size for block in split.large.blocks] == [MIB + 512]


def test_a_small_block_gives_a_rest_of_512_bytes() -> None:
    allocator = serve(MIB, MIB - 512, 1)
    assert (allocator.allocated, allocator.reserved, allocator.small.blocks) == (2 * MIB, 2 * MIB, [])


def test_best_fit_takes_the_smallest_block_that_is_large_enough() -> None:
    allocator = serve(16 * MIB, 12 * MIB, 14 * MIB)
    fourteen = allocator.live[2].address
    for key in (0, 1, 2):
        allocator.free(key)
    allocator.malloc(3, 13 * MIB)
    assert allocator.live[3].address == fourteen
    assert allocator.reserved == 42 * MIB


def test_best_fit_takes_the_lowest_of_equal_blocks() -> None:
    allocator = serve(12 * MIB, 12 * MIB, 12 * MIB)
    middle = allocator.live[1].address
    for key in (2, 1):
        allocator.free(key)
    allocator.malloc(3, 12 * MIB)
    assert allocator.live[3].address == middle


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_freed_neighbours_become_one(order: tuple[int, ...]) -> None:
    allocator = serve(512, 1024, 2048)
    for key in order:
        allocator.free(key)
    assert [(block.address, block.size, block.alone) for block in allocator.small.blocks] == [(0, 2 * MIB, True)]


def test_neighbours_in_use_stay_apart() -> None:
    allocator = serve(512, 1024, 2048, 512)
    allocator.free(0)
    allocator.free(2)
    assert [block.size for block in allocator.small.blocks] == [512, 2048, 2 * MIB - 4096]


def test_freed_memory_stays_cached() -> None:
    allocator = serve(30 * MIB)
    allocator.free(0)
    assert (allocator.allocated, allocator.reserved) == (0, 30 * MIB)
    allocator.malloc(1, 30 * MIB)
    assert (allocator.reserved, allocator.retries) == (30 * MIB, 0)


def test_cached_segments_of_both_pools_make_room() -> None:
    allocator = serve(12 * MIB, 512, limit=15 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.malloc(2, 14 * MIB)
    assert (allocator.reserved, allocator.peak_reserved, allocator.retries) == (14 * MIB, 14 * MIB, 1)


def test_the_limit_itself_is_still_allowed() -> None:
    assert serve(12 * MIB, limit=12 * MIB).retries == 0


def test_a_segment_in_partial_use_makes_no_room() -> None:
    allocator = serve(6 * MIB, 6 * MIB, limit=40 * MIB - 1)
    allocator.free(0)
    with pytest.raises(OutOfMemory) as error:
        allocator.malloc(2, 20 * MIB)
    assert error.value.event == 3
    assert (allocator.allocated, allocator.reserved, allocator.retries) == (6 * MIB, 20 * MIB, 1)


def test_what_is_no_request() -> None:
    allocator = serve(512)
    with pytest.raises(ValueError, match="above 0"):
        allocator.malloc(1, 0)
    with pytest.raises(KeyError):
        allocator.free(1)
