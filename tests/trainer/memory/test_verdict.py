"""The verdict says what is so."""

import pytest

from galore.trainer.memory.peak import Peak
from galore.trainer.memory.profile import Bounds, Profile
from galore.trainer.memory.verdict import VERDICTS, out_of_memory, place, reason, runs_out, span

MIB = 2**20


def on(trace, card):
    profile = Profile(trace, card, expandable=False)
    return VERDICTS[profile.fits], reason(profile), runs_out(profile)


def test_fits(trace, card):
    verdict, why, event = on(trace, card())
    assert (verdict, event) == ("Fits", None)
    assert "to spare" in why


def test_may_fit_where_only_the_lower_bounds_do(trace, card):
    verdict, why, event = on(trace, card(usable=(64 + 10) * MIB))  # the least that is reserved is 20 MiB
    assert (verdict, event) == ("May fit", 0)
    assert "only known on the card" in why


def test_does_not_fit_from_the_event_that_finds_no_room(trace, card):
    verdict, why, event = on(trace, card(usable=50 * MIB))
    assert (verdict, event) == ("Does not fit", 0)
    assert "to spare" not in why
    assert out_of_memory(Profile(trace, card(usable=50 * MIB), False)) == "memory runs out here"


def test_a_range_is_told_where_two_ends_can_be_told_apart():
    assert span(Bounds(2**30, 2**30 + 5)) == "1.00 GiB"
    assert span(Bounds(2**30, 2**31)) == "1.00–2.00 GiB"


@pytest.mark.parametrize(
    ("phase", "module", "said"),
    [
        ("refresh step: backward", "model.layers.3.mlp", "refresh step: backward, in model.layers.3.mlp"),
        ("first step: forward", "", "first step: forward, in the loss"),
        ("refresh step: update", "", "refresh step: update"),
        ("model", "", "model"),
    ],
)
def test_where_the_peak_is(phase, module, said):
    assert place(Peak(0, phase, module, "mul", {}, ())) == said
