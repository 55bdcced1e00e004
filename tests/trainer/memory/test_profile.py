"""What a trace comes to on a card: bounds, categories that add up, and the verdict. Cards and traces are made up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from galore.trainer.machine.cards import Card
from galore.trainer.memory.categories import CATEGORIES, OVERHEAD
from galore.trainer.memory.profile import Bounds, Profile
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20
CONTEXT_LOW, CONTEXT_HIGH = 32, 64  # MiB of the made-up card

Cards = Callable[..., Card]


def mib(bounds: Bounds) -> tuple[float, float]:
    return bounds.low / MIB, bounds.high / MIB


def one_after_the_other(*sizes: int) -> Trace:
    """Blocks of that many MiB, of which only one exists at a time."""
    trace = Trace()
    trace.mark("first step: forward")
    for size in sizes:
        born = len(trace.events)
        trace.died(trace.born(Allocation(size * MIB, size * MIB, "temporaries", "", "mm", (1,), "uint8", born)))
    return trace


@pytest.fixture
def ranged() -> Trace:
    """40 MiB of weights, and for a while a workspace of 20 to 60 MiB."""
    trace = Trace()
    trace.mark("first step: update")
    trace.born(Allocation(40 * MIB, 40 * MIB, "weights", "", "mm", (1,), "uint8", 0))
    trace.died(trace.born(Allocation(20 * MIB, 60 * MIB, "workspaces", "head", "svd", (1,), "uint8", 1)))
    return trace


def test_bounds_of_memory(ranged: Trace, card: Cards) -> None:
    profile = Profile(ranged, card(), False)
    assert mib(profile.allocated) == mib(profile.reserved(False)) == mib(profile.reserved(True)) == (60, 100)
    assert mib(profile.total) == (60 + CONTEXT_LOW, 100 + CONTEXT_HIGH)
    assert mib(profile.limit) == (256, 257)
    assert profile.categories["workspaces"] == 60 * MIB


def test_bounds_are_in_order_where_less_takes_more(profile: Profile) -> None:
    """What may be 1 MiB opens a small segment of 2 then, beside the 20 in which 2 MiB would find room."""
    assert mib(profile.allocated) == (13, 14)
    assert profile.reserved(False).low <= profile.reserved(False).high


def test_the_setting_of_the_allocator_counts(card: Cards) -> None:
    """After 30 MiB a segment that grows needs 10 more for 40; segments of fixed size keep the 30 beside the 40."""
    trace = one_after_the_other(30, 40)
    for expandable, expected in ((False, 70), (True, 40)):
        profile = Profile(trace, card(), expandable)
        assert mib(profile.reserved(expandable)) == (expected, expected)
        assert mib(profile.total) == (expected + CONTEXT_LOW, expected + CONTEXT_HIGH)
        assert profile.categories["allocator_overhead"] == (expected - 40) * MIB


def test_categories_add_up_to_the_total(trace: Trace, long_trace: Trace, card: Cards) -> None:
    for each in (trace, long_trace):
        for expandable in (False, True):
            profile = Profile(each, card(), expandable)
            assert tuple(profile.categories) == CATEGORIES + OVERHEAD
            assert sum(profile.categories.values()) == profile.total.high
            assert min(profile.categories.values()) >= 0
            assert profile.categories["cuda_context"] == CONTEXT_HIGH * MIB
            assert sum(profile.peak.categories.values()) <= profile.allocated.high


def test_the_peak_is_the_allocators(profile: Profile) -> None:
    assert profile.peak.event == 4
    assert profile.peak.phase == "first step: backward"
    assert profile.phases == {"model": 8 * MIB, "first step": 14 * MIB, "evaluation": 9 * MIB}


# -- the verdict: usable memory less the context against what the allocator takes


VERDICTS = [
    (100 + CONTEXT_HIGH, True),  # the worst fits
    (99 + CONTEXT_HIGH, None),
    (60 + CONTEXT_LOW, None),  # the best does
    (59 + CONTEXT_LOW, None),  # with the MiB more that the card may have
    (58 + CONTEXT_LOW, False),
]


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize(("usable", "fits"), VERDICTS)
def test_fits_surely_maybe_or_not(ranged: Trace, card: Cards, usable: int, fits: bool | None, expandable: bool) -> None:
    assert Profile(ranged, card(usable * MIB), expandable).fits is fits


def test_memory_that_is_only_cached_is_given_back_in_time(card: Cards) -> None:
    trace = one_after_the_other(30, 40)
    profile = Profile(trace, card((45 + CONTEXT_HIGH) * MIB), False)
    assert profile.total.high > profile.limit.high
    assert profile.fits is True
    assert Profile(trace, card((39 + CONTEXT_HIGH) * MIB), False).fits is None
    assert Profile(trace, card((38 + CONTEXT_LOW) * MIB), False).fits is False


def test_fits_with_one_setting_only(card: Cards) -> None:
    """A segment of fixed size, 20 MiB, holds two blocks of 7; in segments that grow they lie side by side."""
    trace = Trace()
    trace.mark("model")
    for _ in range(20):
        trace.born(Allocation(7 * MIB, 7 * MIB, "weights", "", "mm", (1,), "uint8", len(trace.events)))
    for expandable in (False, True):
        profile = Profile(trace, card((150 + CONTEXT_HIGH) * MIB), expandable)
        assert mib(profile.reserved(expandable)) == ((140, 140) if expandable else (200, 200))
        assert (profile.fits_with(False), profile.fits_with(True)) == (False, True)
        assert profile.fits is expandable
        assert profile.as_json()["fits_with"] == {"default": False, "expandable": True}


# -- as JSON


def test_as_json(profile: Profile) -> None:
    found = json.loads(json.dumps(profile.as_json()))
    assert found["peak_allocated_bytes"] == 14 * MIB
    assert found["peak_reserved_bytes"] == {"default": 22 * MIB, "expandable": profile.reserved(True).high}
    assert found["total_bytes"] == (22 + CONTEXT_HIGH) * MIB
    assert found["total_bytes_range"] == [(22 + CONTEXT_LOW) * MIB, (22 + CONTEXT_HIGH) * MIB]
    assert found["limit_bytes"] == 256 * MIB
    assert found["limit_bytes_range"] == [256 * MIB, 257 * MIB]
    assert found["fits"] is True
    assert found["fits_with"] == {"default": True, "expandable": True}
    assert found["expandable_segments"] is False
    assert found["categories"] == profile.categories
    assert found["peak"] == {"phase": "first step: backward", "module": "model.layers.1.mlp", "operation": "mm"}
    assert found["phases"] == profile.phases
    assert found["card"] == "Test <GPU> & Co"


@pytest.mark.parametrize(("usable", "fits"), VERDICTS)
def test_as_json_fits_is_true_false_or_null(ranged: Trace, card: Cards, usable: int, fits: bool | None) -> None:
    found = Profile(ranged, card(usable * MIB), True).as_json()
    assert json.loads(json.dumps(found))["fits"] is fits is found["fits"]
