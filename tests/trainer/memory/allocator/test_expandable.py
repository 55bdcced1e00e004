from __future__ import annotations

import pytest

from galore.trainer.memory.allocator.expandable import ExpandableAllocator
from galore.trainer.memory.allocator.segments import OutOfMemory

MIB = 2**20


def serve(*mib: float, limit: int | None = None) -> ExpandableAllocator:
    """An allocator that handed out sizes in MiB under the keys 0, 1, …, on a device with `limit` MiB."""
    allocator = ExpandableAllocator(limit and limit * MIB)
    for key, size in enumerate(mib):
        allocator.malloc(key, int(size * MIB))
    return allocator


def at(allocator: ExpandableAllocator, key: int) -> float:
    return allocator.live[key].address / MIB


def free_mib(allocator: ExpandableAllocator) -> list[float]:
    return [block.size / MIB for block in allocator.large.blocks]


def test_the_large_pool_grows_at_its_end_by_pages_of_20_mib() -> None:
    allocator = serve(5)
    assert allocator.reserved == 20 * MIB
    allocator.malloc(1, 16 * MIB)  # begins in the 15 MiB that are left
    assert (at(allocator, 1), allocator.reserved) == (5, 40 * MIB)
    allocator.malloc(2, 60 * MIB)
    assert (at(allocator, 2), allocator.reserved, free_mib(allocator)) == (21, 100 * MIB, [19])


def test_the_small_pool_grows_by_pages_of_2_mib() -> None:
    allocator = serve(0.75, 0.75)
    assert allocator.reserved == 2 * MIB
    allocator.malloc(2, MIB)
    assert (at(allocator, 2) - at(allocator, 0), allocator.reserved) == (1.5, 4 * MIB)


def test_a_rest_of_512_bytes_is_split_off() -> None:
    allocator = ExpandableAllocator()
    allocator.malloc(0, 20 * MIB - 512)
    assert (allocator.allocated, allocator.reserved) == (20 * MIB - 512, 20 * MIB)
    assert [block.size for block in allocator.large.blocks] == [512]


def test_a_freed_hole_is_used_again_and_becomes_one_with_its_neighbours() -> None:
    allocator = serve(10, 12, 8, 10)
    allocator.free(1)
    allocator.free(2)
    allocator.malloc(4, 20 * MIB)
    assert (at(allocator, 4), allocator.reserved, free_mib(allocator)) == (10, 40 * MIB, [])


def test_a_block_that_can_grow_gives_way_to_a_larger_one_that_cannot() -> None:
    allocator = serve(5, 6, 5)  # 4 MiB are left before the end of the page
    allocator.free(1)
    allocator.malloc(3, 3 * MIB)
    assert at(allocator, 3) == 5
    assert free_mib(allocator) == [3, 4]


def test_of_equal_blocks_the_lowest_is_taken() -> None:
    allocator = serve(5, 6, 5, 6, 5)
    allocator.free(3)
    allocator.free(1)
    allocator.malloc(5, 6 * MIB)
    assert at(allocator, 5) == 5


def test_whole_free_pages_are_unmapped_for_a_request() -> None:
    allocator = serve(5, 50, 5, limit=100)
    allocator.free(1)  # 5 to 55 MiB: the page from 20 to 40 lies wholly inside
    allocator.malloc(3, 51 * MIB)
    assert (at(allocator, 3), allocator.retries) == (60, 1)
    assert allocator.reserved == allocator.peak_reserved == 100 * MIB
    assert free_mib(allocator) == [9, 15, 15]


def test_an_unmapped_hole_is_mapped_again_from_the_free_block_before_it() -> None:
    allocator = serve(5, 70, 5, limit=140)
    allocator.free(1)
    allocator.malloc(3, 80 * MIB)  # takes the pages from 20 to 60 MiB elsewhere
    assert (at(allocator, 3), allocator.reserved, allocator.retries) == (80, 120 * MIB, 1)
    allocator.malloc(4, 30 * MIB)
    assert (at(allocator, 4), allocator.reserved, allocator.retries) == (5, 140 * MIB, 1)
    assert free_mib(allocator) == [5, 15]


def test_no_page_is_unmapped_that_is_partly_in_use() -> None:
    allocator = serve(5, 30, 5, limit=79)
    allocator.free(1)  # 5 to 35 MiB: a part of two pages
    with pytest.raises(OutOfMemory) as error:
        allocator.malloc(3, 31 * MIB)
    assert error.value.event == 4
    assert (allocator.allocated, allocator.reserved, allocator.retries) == (10 * MIB, 40 * MIB, 1)


def test_one_pool_gives_its_pages_to_the_other() -> None:
    allocator = serve(10, limit=20)
    allocator.free(0)
    allocator.malloc(1, 1)
    assert (allocator.reserved, allocator.retries, allocator.large.blocks) == (2 * MIB, 1, [])
    assert allocator.unmapped[allocator.large] == []  # a segment without memory is given up


def test_another_segment_when_the_addresses_run_out() -> None:
    allocator = serve(20, 20, 20, 20, limit=80)  # addresses for 90 MiB, in whole pages
    allocator.free(0)
    allocator.free(2)
    allocator.malloc(4, 30 * MIB)  # fits neither in the two holes nor in the last 20 MiB
    assert (at(allocator, 4), allocator.reserved, allocator.retries) == (100, 80 * MIB, 1)
