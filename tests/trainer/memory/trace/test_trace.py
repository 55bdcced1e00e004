"""Storages from birth to death: what a trace of events says of any moment."""

from __future__ import annotations

import pytest

from galore.trainer.memory.trace.trace import Allocation, Trace


def born(trace: Trace, nbytes: int, category: str = "temporaries", high: int | None = None) -> int:
    return trace.born(Allocation(nbytes, high or nbytes, category, "", "mm", (nbytes,), "uint8", len(trace.events)))


@pytest.fixture
def steps() -> Trace:
    """Weights for good; two activations, of which the first outlives the second; a workspace of 5 to 9 bytes."""
    trace = Trace()
    trace.mark("model")
    born(trace, 100, "weights")
    trace.mark("first step: forward")
    first, second = born(trace, 10, "activations"), born(trace, 20, "activations")
    trace.died(second)
    trace.mark("first step: backward")
    trace.mark("first step: update")  # of an empty backward
    trace.died(born(trace, 5, "workspaces", high=9))
    trace.died(first)
    return trace


def test_events_are_births_and_deaths_in_order(steps: Trace) -> None:
    assert steps.events == [1, 2, 3, -3, 4, -4, -2]
    assert [(each.born, each.died) for each in steps.allocations] == [(0, None), (1, 6), (2, 3), (4, 5)]


def test_alive_right_after_an_event(steps: Trace) -> None:
    sizes = [[each.nbytes for each in steps.alive(event)] for event in range(len(steps.events))]
    assert sizes == [[100], [100, 10], [100, 10, 20], [100, 10], [100, 10, 5], [100, 10], [100]]


def test_requested_at_the_lower_and_the_upper_bound(steps: Trace) -> None:
    assert steps.requested() == [100, 110, 130, 110, 115, 110, 100]
    assert steps.requested(high=True) == [100, 110, 130, 110, 119, 110, 100]
    assert steps.sizes() == [100, 10, 20, 5]
    assert steps.sizes(high=True) == [100, 10, 20, 9]


def test_by_category_sums_up_to_what_is_requested(steps: Trace) -> None:
    assert steps.by_category(2) == {"weights": 100, "activations": 30}
    assert steps.by_category(4) == {"weights": 100, "activations": 10, "workspaces": 5}
    assert steps.by_category(4, high=True)["workspaces"] == 9
    for high in (False, True):
        sums = [sum(steps.by_category(event, high).values()) for event in range(len(steps.events))]
        assert sums == steps.requested(high)


def test_mark_at_is_the_last_one_that_has_begun(steps: Trace) -> None:
    found = [steps.mark_at(event) for event in range(len(steps.events))]
    assert found == ["model", *["first step: forward"] * 3, *["first step: update"] * 3]
    assert Trace(events=[1]).mark_at(0) == ""
