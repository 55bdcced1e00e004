"""Of streamed blocks few are traced, and all cross the bus: each copy in its turn, each byte counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from galore.kernels.device import meta_stands_for
from galore.trainer.fit import rehearsal as rehearsal_module
from galore.trainer.fit.alike import few
from galore.trainer.fit.alike.grown import Blocks, UnlikeError
from galore.trainer.fit.alike.streams import all_come
from galore.trainer.fit.rehearsal import Rehearsal
from galore.trainer.host import blocks as module
from galore.trainer.host.blocks import StreamedBlocks, streamed
from galore.trainer.host.places import Copy
from galore.trainer.memory.trace.simulate import SimulatedTracer
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.work import work_of

COUNT, KEPT, PATTERN = 13, (0, 1, 2, 3, 6, 7, 8, 11, 12), 2
BLOCKS = Blocks([f"layers.{number}" for number in range(COUNT)], KEPT, PATTERN)
Way = Callable[["Steps", Sequence[int]], None]


class Steps:
    """What steps ask of COUNT blocks that are streamed, so many `places` at a time; `copies` in their order."""

    backward = False

    def __init__(self, places: int) -> None:
        layers = [nn.Linear(number + 1, 4, bias=False, device="meta") for number in range(COUNT)]
        self.weights = [layer.weight for layer in layers]
        self.stream = StreamedBlocks(layers, [[each] for each in self.weights], torch.device("meta"), places)
        self.copies, carry_out = list[Copy](), self.stream.carry_out

        def noted(copies: Iterable[Copy]) -> None:
            self.copies += (found := list(copies))
            carry_out(found)

        vars(self.stream)["carry_out"] = noted

    def through(self, numbers: Iterable[int], backward: bool = False, update: bool = False) -> None:
        Steps.backward = backward
        for number in numbers:
            self.stream.arrive(number)
            if update:
                self.stream.change(self.weights[number])
        Steps.backward = False


@pytest.fixture(autouse=True)
def backwards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph is gone through in `Steps`."""
    if "tiny" not in request.fixturenames:
        monkeypatch.setattr(module, "in_backward", lambda: Steps.backward)


def accumulated(steps: Steps, numbers: Sequence[int]) -> None:
    """Two micro-batches, recomputed in the backward, and an update of all."""
    for _ in range(2):
        steps.through(numbers)
        steps.through([number for number in reversed(numbers) for _ in range(2)], backward=True)
    for weight in steps.weights:
        steps.stream.change(weight)
    steps.stream.flush()


def immediate(steps: Steps, numbers: Sequence[int]) -> None:
    """An update in the backward."""
    steps.through(numbers)
    steps.through(reversed(numbers), backward=True, update=True)
    steps.stream.flush()


@pytest.mark.parametrize("places", [2, 3, 4, 7, 12])
@pytest.mark.parametrize("step", [accumulated, immediate])
def test_copies_are_those_of_all_blocks_in_their_order(step: Way, places: int) -> None:
    expected, ours = Steps(places), Steps(places)
    with all_come(ours.stream, BLOCKS, nullcontext):
        for steps, numbers in ((expected, range(COUNT)), (ours, KEPT)):
            step(steps, numbers)
            step(steps, numbers)
            steps.through(numbers)
    assert ours.copies == expected.copies
    assert ours.stream.host.fetched == expected.stream.host.fetched > 0
    assert ours.stream.host.sent == expected.stream.host.sent > 0


@pytest.mark.parametrize("numbers", [(*KEPT, 2), (0, 1, 2, 3, 7, 8, 11, 12)], ids=["once more", "past a gap"])
def test_a_block_that_does_not_come_like_the_pattern_is_told(numbers: Sequence[int]) -> None:
    steps = Steps(2)
    with pytest.raises(UnlikeError, match="come from the host"), all_come(steps.stream, BLOCKS, nullcontext):
        steps.through(numbers)


# -- whole rehearsals

Tiny = Callable[..., LoadedRecipe]
DEEP = ("model.num_hidden_layers=10", "optim.update_proj_gap=400", "model.dtype=bfloat16")
HOST, CHECKPOINTS = "optim.gradient_sums=host", "train.gradient_checkpointing=true"
KINDS: dict[str, tuple[str, ...]] = {
    "int8 weights": ("train.stream_weights=true", CHECKPOINTS, "optim.weight_dtype=int8"),
    "weights, as they are trained": (
        *("train.stream_weights=3", "optim.update=immediate", "optim.refresh=first-micro-batch"),
        "optim.max_grad_norm=null",
    ),
    "sums": (HOST, "optim.method=full", "train.global_batch_size=4"),
    "both": (HOST, "train.stream_weights=4", "optim.refresh=summed"),
}


def traced(rehearsal: Rehearsal) -> Trace:
    """Of all blocks."""
    rehearsal.run(brief=True)
    return rehearsal.tracer.trace


def rehearsed(loaded: LoadedRecipe, whole: bool) -> dict[str, Any]:
    """What is told of a recipe by all of its blocks, or by few: the trace, bytes over the bus, and the host's memory."""
    tracer = SimulatedTracer()
    with meta_stands_for("cuda", tracer.launched):
        rehearsal = Rehearsal.prepare(loaded, "meta", tracer, 2)
        trace = traced(rehearsal) if whole else rehearsal.run_few(brief=True)
    return {
        "events": trace.events,
        "allocations": trace.allocations,
        "marks": trace.marks,
        "work": [(str(each.call.function), work_of(each), each.counts) for each in trace.operations],
        "moved": rehearsal.moved,
        "host": [(host.held, host.most, host.fetched, host.sent) for host in rehearsal.hosts()],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_few_blocks_tell_all_of_the_host_and_the_bus(tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, chosen = tiny(*DEEP, *KINDS[kind]), []

    def chooses(*of: Any) -> Blocks | None:
        chosen.append(few.choose(*of))
        return chosen[-1]

    monkeypatch.setattr(rehearsal_module, "choose", chooses)
    found, expected = (rehearsed(loaded, whole) for whole in (False, True))
    for what in expected:
        assert found[what] == expected[what], what
    assert [each and each.kept for each in chosen] == [[0, 1, 2, 3, 8, 9]]
    assert all(there > 0 for there, _ in found["moved"].values())


def test_all_blocks_are_traced_where_some_do_not_wait(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with meta_stands_for("cpu"):
        rehearsal = Rehearsal.prepare(tiny(*DEEP, "train.stream_weights=true"), "meta", SimulatedTracer(), 1)
    assert few.choose(rehearsal.model, rehearsal.optimizer, [0]) is not None
    stream = streamed(rehearsal.model)
    assert stream is not None
    monkeypatch.setattr(stream, "blocks", stream.blocks[1:])
    assert few.choose(rehearsal.model, rehearsal.optimizer, [0]) is None
