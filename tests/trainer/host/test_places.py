"""Which block lies where: at most so many, each in its turn, sent back before another takes its place."""

from __future__ import annotations

import itertools

import pytest

from galore.trainer.host.places import Copy, Places, traffic


@pytest.mark.parametrize(("blocks", "count"), [(3, 2), (4, 2), (7, 2), (7, 3), (5, 4)])
def test_a_pass_there_and_back_fetches_each_block_once_and_no_other_twice(blocks: int, count: int) -> None:
    places = Places(blocks, count)
    there = [copy for block in range(blocks) for copy in places.arrive(block, 1)]
    assert there == [Copy("fetch", block) for block in range(blocks)]
    back = [copy for block in reversed(range(blocks)) for copy in places.arrive(block, -1)]
    assert back == [Copy("fetch", block) for block in reversed(range(blocks - count))]
    again = [copy for block in range(blocks) for copy in places.arrive(block, 1)]
    assert again == [Copy("fetch", block) for block in range(count, blocks)]


def test_the_next_one_is_asked_for_before_it_is_needed() -> None:
    places = Places(6, 2)
    assert list(places.arrive(0, 1)) == [Copy("fetch", 0), Copy("fetch", 1)]
    assert list(places.arrive(1, 1)) == [Copy("fetch", 2)]
    assert list(places.arrive(3, -1)) == [Copy("fetch", 3)]
    assert list(places.arrive(2, -1)) == [Copy("fetch", 1)]


@pytest.mark.parametrize("jumps", list(itertools.permutations(range(4), 3)))
def test_what_was_changed_comes_back_whatever_is_asked_for_next(jumps: tuple[int, ...]) -> None:
    places, host, device = Places(4, 2), dict.fromkeys(range(4), 0), dict[int, int]()

    def carry_out(copies: list[Copy]) -> None:
        for way, block in copies:
            if way == "fetch":
                device[block % 2] = host[block]
            else:
                host[block] = device[block % 2]

    for number, block in enumerate(jumps, start=1):
        carry_out(list(places.arrive(block, 1)))
        assert places.holds[block % 2] == block
        device[block % 2] = number
        places.changed.add(block)
    carry_out(list(places.flush()))
    assert host == dict.fromkeys(range(4), 0) | {block: number for number, block in enumerate(jumps, start=1)}
    assert list(places.flush()) == []


def test_bytes_of_a_step() -> None:
    """Forward and backward fetch all but the two that are there, the update and its way back take each once."""
    sizes = [1, 10, 100, 1000]
    assert traffic(sizes, 2, 1, trained=False) == {"fetch": 1100 + 11, "send": 0}
    assert traffic(sizes, 2, 3, trained=True) == {"fetch": 1111 + 11 + 2 * 1111 + 1100, "send": 1111}
    assert traffic(sizes, 2, 3, trained=True, sketches=True) == {"fetch": 4444 + 3 * 1111, "send": 1111}
