"""Stages are told apart, counted and given room."""

import pytest

from galore.trainer.memory.chart.stages import LEAST_SHARE, edges, stages
from galore.trainer.memory.trace.trace import Trace


def marked(*lengths):
    trace = Trace()
    for what, length in lengths:
        trace.mark(what)
        trace.events += [1] * length
    return trace


def test_stages_cover_the_events_and_the_axis(trace):
    found = stages(trace)
    assert [(each.phase, each.name) for each in found] == [
        ("model", ""), ("first step", "forward"), ("first step", "backward"), ("evaluation", "forward")
    ]  # fmt: skip
    assert found[0].start == 0
    assert found[-1].end == len(trace.events)
    assert [each.end for each in found[:-1]] == [each.start for each in found[1:]]
    assert found[0].left == 0
    assert found[-1].right == pytest.approx(1)
    assert edges(found)[1][-1] == 1


def test_stages_of_one_name_within_a_phase_are_counted():
    step = [("forward", 10), ("backward", 10), ("forward", 10), ("backward", 10), ("update", 10)]
    found = stages(marked(*((f"{phase}: {name}", count) for phase in ("a", "b") for name, count in step)))
    names = ["forward 1", "backward 1", "forward 2", "backward 2", "update"]
    assert [each.name for each in found] == names * 2


def test_what_cannot_be_seen_goes_with_what_precedes():
    found = stages(marked(("a: backward", 5000), ("a: update", 3), ("a: forward", 5000)))
    assert [(each.name, each.start, each.end) for each in found] == [("backward", 0, 5003), ("forward", 5003, 10003)]


def test_a_short_phase_has_room_and_a_long_one_more():
    found = stages(marked(("short", 12), ("long: forward", 10_000)))
    assert found[0].right >= LEAST_SHARE
    assert found[1].right - found[1].left > 0.8


def test_events_before_the_first_mark_and_marks_at_one_event():
    trace = Trace(events=[1] * 100, marks=[(50, "gone"), (50, "a: forward"), (100, "after the end")])
    assert [(each.phase, each.start, each.end) for each in stages(trace)] == [("", 0, 50), ("a", 50, 100)]
