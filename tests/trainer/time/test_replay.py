"""Operations carried out by themselves: each once, with arguments it takes."""

from __future__ import annotations

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.kernels.host import FROM_HOST, TO_HOST
from galore.kernels.subspace import gaussian
from galore.trainer.memory.trace.simulate import SimulatedTracer
from galore.trainer.memory.trace.trace import Call, Described, Operation
from galore.trainer.time import replay as module
from galore.trainer.time.estimate import step_of
from galore.trainer.time.replay import Replayed, around_an_operation

X = Described((2, 3), (3, 1), torch.float32, "meta")
CPU = torch.device("cpu")


def operations() -> list[Operation]:
    tracer = SimulatedTracer()
    x = torch.empty(64, 64, device="meta")
    with meta_stands_for("cpu"), tracer:
        y = torch.cat([x @ x, x.t() * 2.0])
        y.index_select(0, torch.zeros(3, dtype=torch.int64, device="meta")).softmax(-1)
        torch.zeros(4, 4, device="meta").add_(1)
    return tracer.trace.operations


def test_everything_is_timed_and_nothing_left_out() -> None:
    replayed, given = Replayed(CPU), operations()
    replayed.time(given)
    assert not replayed.left_out
    product = next(each for each in given if "mm" in str(each.call.function))
    assert replayed.seconds(product) > replayed.around > 0
    view = next(each for each in given if not each.call.arguments and not each.call.keywords)
    assert replayed.seconds(view) == replayed.around


def test_a_copy_takes_time_by_its_bytes_and_is_waited_for() -> None:
    replayed = Replayed(CPU)
    copies = [
        Operation(Call(which, (0, nbytes), ()), ()) for which in (TO_HOST, FROM_HOST) for nbytes in (64, 96 << 20)
    ]
    for each in copies:
        each.count("ordinary step", "forward", 1)
    replayed.time(copies)
    for small, large in (copies[:2], copies[2:]):
        assert replayed.seconds(large) > 20 * replayed.seconds(small) > 0
    part = step_of(copies, "ordinary step", 1, 1, replayed).parts["forward"]
    assert part.seconds == pytest.approx(sum(map(replayed.seconds, copies)))
    assert not part.bus


def test_what_has_pages_of_its_own_takes_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large result, a large cast that no result shows, and neither in what is written in place or is small."""
    monkeypatch.setattr(module, "seconds_of_pages", lambda: 1.0)
    monkeypatch.setattr(module, "OWN_PAGES", 1 << 12)
    x, y = torch.empty(64, 64, device="meta"), torch.empty(64, 64, dtype=torch.bfloat16, device="meta")
    tracer = SimulatedTracer()
    with meta_stands_for("cpu"), tracer:
        x * 2.0, x.add_(y), x.add_(1), x[0] * 2.0
    replayed = Replayed(CPU)
    replayed.time(tracer.trace.operations)
    taken = [
        replayed.found[each.call]
        for each in tracer.trace.operations
        if "mul" in str(each.call) or "add" in str(each.call)
    ]
    assert [round(each) for each in taken] == [64 * 64 * 4, 64 * 64 * 4, 0, 0]


def test_numbers_that_are_drawn_are_seen() -> None:
    tracer = SimulatedTracer()
    with meta_stands_for("cpu"), tracer:
        gaussian(7, 5, 1, torch.empty(0, device="meta"))
    assert [each for each in tracer.trace.operations if "normal" in str(each.call.function)]


def test_of_a_large_copy_a_part_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    monkeypatch.setattr(
        Replayed, "_repeated", lambda self, function, arguments, _: timed.append(len(arguments[0])) or 1.0
    )
    large = Operation(Call(TO_HOST, (0, 96 << 20), ()), ())
    replayed = Replayed(CPU)
    replayed.time([large])
    assert timed[-1] == 64 << 20
    assert replayed.found[large.call] == pytest.approx(1.5)


def test_an_operation_is_timed_once() -> None:
    replayed, given = Replayed(CPU), operations()
    replayed.time(given)
    replayed.found = dict.fromkeys(replayed.found, 7.0)
    replayed.time(given)
    assert set(replayed.found.values()) == {7.0}


def test_what_cannot_be_carried_out_is_told() -> None:
    wrong = Operation(Call(torch.ops.aten.mm.default, (X, X), ()), (X,))
    replayed = Replayed(CPU)
    replayed.time([wrong])
    assert replayed.left_out == [wrong.call]


def test_no_number_of_the_program_changes() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    Replayed(CPU).time(operations())
    assert torch.equal(torch.rand(1), expected)


def test_around_an_operation_is_microseconds() -> None:
    assert 1e-8 < around_an_operation(CPU) < 1e-3
