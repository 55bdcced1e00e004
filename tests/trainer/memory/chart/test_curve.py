"""The thinned curve holds the peaks, and nothing that was not."""

import numpy as np
import pytest

from galore.trainer.memory.chart.curve import curve
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20


def born(trace, nbytes, category):
    return trace.born(Allocation(nbytes, nbytes, category, "", "mm", (nbytes,), "uint8", len(trace.events)))


@pytest.fixture
def long_profile(long_trace, card):
    return Profile(long_trace, card(), expandable=True)


def test_every_moment_is_as_it_was(long_profile):
    found = curve(long_profile, most=300)
    for index in (*range(0, len(found.moments), 17), found.peak):
        then = long_profile.trace.by_category(int(found.moments[index]), high=True)
        shown = {name: int(part[index]) for name, part in found.parts.items() if name != "cuda_context" and part[index]}
        assert shown == {name: nbytes for name, nbytes in then.items() if nbytes}
    assert (found.parts["cuda_context"] == 64 * MIB).all()


@pytest.mark.parametrize("most", [60, 300, 4000])
def test_it_is_short_and_has_the_global_peak(long_profile, most):
    found = curve(long_profile, most)
    requested = np.array(long_profile.trace.requested(high=True))
    assert len(found.moments) <= most
    assert found.moments[found.peak] == long_profile.peak.event
    assert found.total.max() == requested.max() + 64 * MIB
    assert found.reserved.max() == long_profile.total.high
    assert (np.diff(found.moments) > 0).all()
    assert (found.reserved >= found.total).all()


def test_a_spike_and_a_dip_of_one_event_survive(card):
    trace = Trace()
    held = born(trace, 10 * MIB, "weights")
    for turn in range(20_000):
        if turn == 7_777:
            trace.died(held)
            held = born(trace, 10 * MIB, "weights")
        spike = born(trace, (5 if turn == 12_345 else 1) * MIB, "activations")
        trace.died(spike)
    total = curve(Profile(trace, card(), False), most=200).total - 64 * MIB
    assert total.max() == 15 * MIB
    assert total[20:].min() == 0


def test_the_peak_is_that_of_what_was_handed_out_and_not_of_what_was_asked_for(card):
    trace = Trace()
    small = [born(trace, 1, "activations") for _ in range(100)]  # 512 bytes each, once rounded
    for number in small[:60]:
        trace.died(number)
    for _ in range(3000):
        trace.died(born(trace, 20_000, "weights"))
    found = curve(Profile(trace, card(), False), most=50)
    assert found.moments[found.peak] == 99
    assert found.total.max() == 64 * MIB + 20_040


def test_a_short_trace_is_kept_whole(profile):
    found = curve(profile)
    assert found.moments.tolist() == list(range(len(profile.trace.events)))
    assert found.total[found.peak] == (8 + 4 + 2 + 64) * MIB


def test_the_envelope_takes_the_highest_of_each_column(long_profile):
    found = curve(long_profile)
    chosen = found.envelope(10)
    assert len(chosen) == 10
    for column, index in enumerate(chosen):
        inside = (found.places >= column / 10) & (found.places < (column + 1) / 10)
        assert found.total[index] == found.total[inside].max()


def test_one_event_is_enough(card):
    trace = Trace([Allocation(5, 5, "weights", "", "", (5,), "uint8", 0)], [1])
    assert curve(Profile(trace, card(), False)).total.tolist() == [64 * MIB + 5]
