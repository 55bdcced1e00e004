"""The highest moment of a trace: when, what asked for the last byte, and which tensors hold it."""

from __future__ import annotations

import pytest

from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.peak import Holder, folded, peak_of, phases
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20


def highest(trace: Trace) -> int:
    curve = trace.requested(high=True)
    return max(range(len(curve)), key=curve.__getitem__)


def test_when_and_where(trace: Trace) -> None:
    peak = peak_of(trace, highest(trace))
    assert (peak.phase, peak.module, peak.op) == ("first step: backward", "model.layers.1.mlp", "mm")


def test_categories_at_upper_bounds_in_the_order_of_a_stack(trace: Trace) -> None:
    peak = peak_of(trace, highest(trace))
    assert tuple(peak.categories) == CATEGORIES
    assert {name: size for name, size in peak.categories.items() if size} == {
        "weights": 8 * MIB,
        "activations": 4 * MIB,
        "temporaries": 2 * MIB,
    }
    assert peak.requested == 14 * MIB == max(trace.requested(high=True))


def test_holders_count_alike_tensors_of_all_layers_together(trace: Trace) -> None:
    holders = peak_of(trace, highest(trace)).holders
    module = "model.layers.*.mlp"
    assert holders == (
        Holder("weights", module, "weights", (2048, 2048), "uint8", 2, 8 * MIB),
        Holder("activations", module, "mm", (2 * MIB,), "uint8", 2, 4 * MIB),
        Holder("temporaries", module, "mm", (MIB,), "uint8", 1, 2 * MIB),
    )
    assert sum(holder.nbytes for holder in holders) == peak_of(trace, highest(trace)).requested


@pytest.mark.parametrize(
    "other", [{"shape": (5, 2)}, {"dtype": "int8"}, {"op": "add"}, {"category": "weights"}, {"module": "b.0.c"}]
)
def test_holders_are_alike_in_everything_but_the_layer(other: dict[str, object]) -> None:
    trace = Trace()
    first = {"category": "activations", "module": "a.0.c", "op": "mm", "shape": (2, 5), "dtype": "uint8"}
    for settings in (first, first | {"module": "a.11.c"}, first | other):
        trace.born(Allocation(10, 10, born=len(trace.events), **settings))  # type: ignore[arg-type]
    assert [holder.count for holder in peak_of(trace, 2).holders] == [2, 1]


def test_what_has_died_holds_nothing(trace: Trace) -> None:
    end = peak_of(trace, len(trace.events) - 1)
    assert [holder.category for holder in end.holders] == ["weights"]
    assert end.phase == "evaluation: forward"


def test_most_of_each_phase(trace: Trace) -> None:
    assert phases(trace) == {"model": 8 * MIB, "first step": 14 * MIB, "evaluation": 9 * MIB}


def test_a_phase_without_events_has_what_was_there() -> None:
    trace = Trace()
    trace.mark("model")
    trace.mark("first step: forward")
    trace.born(Allocation(10, 10, "weights", "", "mm", (10,), "uint8", 0))
    trace.mark("evaluation: forward")
    assert phases(trace) == {"model": 0, "first step": 10, "evaluation": 10}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.layers.12.mlp.up_proj", "model.layers.*.mlp.up_proj"),
        ("transformer.h.3", "transformer.h.*"),
        ("model.layers.0.experts.7.w1", "model.layers.*.experts.*.w1"),
        ("model.layers.1.2.x", "model.layers.*.*.x"),
        ("lm_head", "lm_head"),
        ("layer1.norm2", "layer1.norm2"),
        ("", ""),
    ],
)
def test_folded(path: str, expected: str) -> None:
    assert folded(path) == expected
