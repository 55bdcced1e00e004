"""Kernels are timed on memory of their own, after the cache was flushed; the fastest tile that runs is kept."""

from types import SimpleNamespace

import pytest
import torch
from kernel_machines import Interpreter
from triton.runtime.errors import OutOfResources

from galore.kernels.predict import catalogue, measure
from galore.kernels.predict.candidates import Entry, tiles
from galore.kernels.triton.launch import Launch
from galore.kernels.triton.states import tables

CPU = torch.device("cpu")


def test_a_plan_is_realized_on_memory_of_its_own_shared_as_before():
    x, codes = catalogue.meta(6, 4).mT, catalogue.meta(8, dtype=torch.uint8)
    table = torch.empty(1029, device="meta")
    arguments = {"A": x, "CODES": codes, "TABLES": table, "count": 3, "NONE": None}
    first, second = measure.realized([Launch(None, (1, 1), arguments, {}), Launch(None, (2, 1), {"B": x}, {})], CPU)
    assert first.arguments["A"] is second.arguments["B"]
    assert (first.arguments["A"].shape, first.arguments["A"].stride()) == (x.shape, x.stride())
    assert first.arguments["A"].dtype == torch.bfloat16
    assert bool(first.arguments["A"].any())
    assert not first.arguments["CODES"].any()  # any byte is a code
    assert torch.equal(first.arguments["TABLES"], tables(CPU))
    assert (first.arguments["count"], first.arguments["NONE"], second.grid) == (3, None, (2, 1))
    assert x.is_meta


def test_seconds_are_the_median_each_after_the_cache_was_flushed(monkeypatch):
    happened, elapsed = [], iter([5.0, 1.0, 3.0])
    event = SimpleNamespace(
        record=lambda: happened.append("event"), synchronize=lambda: None, elapsed_time=lambda end: next(elapsed)
    )
    monkeypatch.setattr(measure, "_event", lambda: event)
    monkeypatch.setattr(measure, "REPEATS", 3)
    monkeypatch.setattr(measure, "FLUSH", 8)
    flushed = torch.Tensor.zero_
    monkeypatch.setattr(torch.Tensor, "zero_", lambda self: happened.append("flush") or flushed(self))
    seconds = measure.cuda_timer(CPU)(lambda: happened.append("call"))
    assert seconds == pytest.approx(3e-3)
    assert happened == ["call"] * measure.WARM + [*["flush"] * measure.FLUSHES, "event", "call", "event"] * 3


def test_tuning_times_clones_and_keeps_the_fastest():
    """On the interpreter with a clock of its own, since there is no GPU: states of the caller are never the operands."""
    machine = Interpreter()
    measure = machine.kernels.measure
    entry = measure.Entry("lift", 64, 128, 16, False, "stochastic")
    wanted, asked = measure.tiles(entry)[1], []

    def clock(call):
        asked.append(call)
        if len(asked) == 1:
            call()  # real memory, really computed
        return 1.0 if len(asked) == measure.tiles(entry).index(wanted) + 1 else 2.0

    shown = []
    with machine.ready():
        found = measure.tune([entry], torch.device("cpu"), clock, lambda *line: shown.append(line))
    assert found == {entry.key: wanted}
    assert len(asked) == len(measure.tiles(entry))
    assert len(shown) == 1


def test_tiles_that_do_not_fit_the_card_are_passed_over(monkeypatch):
    monkeypatch.setattr(measure, "realized", lambda plan, device: plan)
    entries = [Entry("lift", 64, 128, 16, transposed, "stochastic") for transposed in (False, True)]
    asked = []

    def clock(call):
        asked.append(call)
        if len(asked) != 2:  # of all tiles of both entries, the second one of the first
            raise OutOfResources(1, 0, "shared memory")
        return 1.0

    assert measure.tune(entries, CPU, clock, lambda *line: None) == {entries[0].key: tiles(entries[0])[1]}
    assert len(asked) == sum(len(tiles(entry)) for entry in entries)
