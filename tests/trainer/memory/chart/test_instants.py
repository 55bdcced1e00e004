"""What the page is drawn from, decoded again: the bytes, acts and holders of every moment are those of the trace."""

import json
from itertools import accumulate

import pytest

from galore.trainer.memory.categories import spoken
from galore.trainer.memory.chart.curve import STACK, curve
from galore.trainer.memory.chart.instants import HOLDERS, Words, embedded, told
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20


def document(profile):
    return json.loads(embedded(profile, curve(profile)))


def test_a_word_has_the_number_of_its_first_mention():
    words = Words()
    assert [words[each] for each in ("b", "a", "b", "")] == [0, 1, 0, 2]
    assert list(words) == ["b", "a", ""]


def test_an_operation_that_is_the_category_says_nothing():
    assert told("weights", "weights") == ""
    assert told("weights", "mm") == "mm"


def test_numbers_are_differences_to_the_one_before(profile):
    found, drawn = document(profile), curve(profile)
    assert list(accumulate(found["moments"])) == drawn.moments.tolist()
    assert list(accumulate(found["reserved"])) == drawn.reserved.tolist()
    assert [list(accumulate(part)) for part in found["parts"]] == [part.tolist() for part in drawn.parts.values()]
    assert [name for name, _ in found["names"]] == [spoken(name) for name in STACK]
    assert (found["events"], found["peak"]) == (len(profile.trace.events), drawn.peak)


def test_acts_take_and_give_back(profile):
    found = document(profile)
    trace = profile.trace
    assert len(found["acts"]) == len(found["moments"])
    for event, (taken, category, module, op) in zip(accumulate(found["moments"]), found["acts"], strict=True):
        number = trace.events[event]
        each = trace.allocations[abs(number) - 1]
        assert taken == (each.high if number > 0 else -each.high)
        assert STACK[category] == each.category
        assert found["words"][module] == each.module
        assert found["words"][op] == told(each.category, each.op)


def test_holders_of_each_moment_are_the_largest_that_are_alive(long_trace, card):
    profile = Profile(long_trace, card(), expandable=True)
    found = document(profile)
    assert len(found["held"]) == len(found["moments"])
    assert max(map(len, found["held"])) == HOLDERS
    at = list(accumulate(found["moments"]))
    for index in (0, len(at) // 2, found["peak"], len(at) - 1):
        held = [found["kinds"][kind][-1] * count for kind, count in found["held"][index]]
        assert held == sorted(held, reverse=True)
        assert held[0] >= max(each.high for each in profile.trace.alive(at[index]))


@pytest.mark.parametrize("name", ["</script><script>alert(1)", "a & b <!--", "ä\u2028"])
def test_no_name_ends_the_script(card, name):
    trace = Trace()
    trace.mark("model")
    trace.born(Allocation(MIB, MIB, "weights", name, "mm", (MIB,), "uint8", 0))
    text = embedded(profile := Profile(trace, card(), expandable=False), curve(profile))
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert name in json.loads(text)["words"]
