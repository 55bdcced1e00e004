"""Refresh turns: all at step 0, then each layer once per gap, never bunched."""

import itertools
from collections import Counter

import pytest

from galore.trainer.optim.parts.subspace.schedule import RefreshSchedule, schedules


@pytest.mark.parametrize(("layers", "gap"), [(7, 20), (20, 7), (224, 200), (1, 5), (3, 1)])
def test_staggered_layers_take_turns(layers, gap):
    turns = schedules([gap] * layers, stagger=True)
    assert all(turn.due(0) for turn in turns)
    per_step = Counter(step for turn in turns for step in range(gap, 3 * gap) if turn.due(step))
    assert max(per_step.values()) <= -(-layers // gap)
    assert sum(per_step.values()) == 2 * layers
    waits = [b.offset - a.offset for a, b in itertools.pairwise(turns)]
    assert all(gap // layers <= wait <= -(-gap // layers) for wait in waits), "spread over the whole gap"


@pytest.mark.parametrize("offset", range(4))
def test_the_last_turn_is_the_latest_one_so_far(offset):
    schedule = RefreshSchedule(4, offset)
    for step in range(20):
        assert schedule.last_due(step) == max(earlier for earlier in range(step + 1) if schedule.due(earlier))


@pytest.mark.parametrize("offset", range(4))
def test_turns_are_counted_from_the_start(offset):
    schedule = RefreshSchedule(4, offset)
    for step in range(20):
        assert schedule.turn(step) == sum(schedule.due(earlier) for earlier in range(1, step + 1))


def test_without_stagger_all_refresh_together_as_the_official_code():
    turns = schedules([5, 5, 5], stagger=False)
    assert [step for step in range(12) if turns[0].due(step)] == [0, 5, 10]
    assert set(turns) == {RefreshSchedule(5, 0)}
