"""A trace of few blocks grown to all is the trace that all of them leave, or is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from galore.trainer.fit.alike.grown import Blocks, Cut, UnlikeError, grown
from galore.trainer.memory.trace.trace import Allocation, Trace

COUNT, KEPT, PATTERN = 9, (0, 1, 2, 3, 7, 8), 2
PATHS = [f"model.layers.{number}" for number in range(COUNT)]
BLOCKS = Blocks(PATHS, KEPT, PATTERN)

Odd = Callable[["Steps", int, str], None]


class Steps:
    """Two steps of the blocks `numbers`, event by event. `odd` is told of each visit, with the stage, before it ends."""

    def __init__(self, numbers: Sequence[int], odd: Odd = lambda steps, block, stage: None) -> None:
        self.trace, self.cuts, self.odd = Trace(refreshes=0.5), list[Cut](), odd
        self.weights = {number: self.born(number, "weights") for number in range(COUNT)}
        sums: dict[int, int] = {}
        for step in (1, 2):
            self.trace.mark(f"{step}: forward")
            hidden = self.born(None, "embedded")
            kept: dict[int, int] = {}
            for number in numbers:
                self.turn(number)
                kept[number], hidden = hidden, self.born(number, "out")
                self.trace.died(self.born(number, "inside"))
                self.odd(self, number, "forward")
            self.trace.mark(f"{step}: backward")
            grad = self.born(None, "grad")
            for number in reversed(numbers):
                self.turn(number)
                self.trace.died(hidden)
                hidden = kept[number]
                old, grad = grad, self.born(number, "grad")
                self.trace.died(old)
                old_sum = sums.pop(number, None)
                sums[number] = self.born(number, "sum")
                if old_sum is not None:
                    self.trace.died(old_sum)
                self.odd(self, number, "backward")
            self.turn(None)
            self.trace.died(grad)
            self.trace.died(hidden)

    def turn(self, block: int | None) -> None:
        self.cuts.append((len(self.trace.events), block))

    def born(self, block: int | None, op: str) -> int:
        module = "" if block is None else f"{PATHS[block]}.mlp"
        size = 8 if block is None else 16
        return self.trace.born(Allocation(size, size, "any", module, op, (size,), "uint8", len(self.trace.events)))


def of_few(odd: Odd = lambda steps, block, stage: None) -> Trace:
    few = Steps(KEPT, odd)
    return grown(few.trace, few.cuts, BLOCKS)


def test_it_is_the_trace_of_all() -> None:
    assert of_few() == Steps(range(COUNT)).trace


def test_blocks_are_left_out_in_several_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 8 does more, and stays with its neighbours; blocks on both sides of them are left out."""

    def more(steps: Steps, block: int, stage: str) -> None:
        if block == 8 and stage == "backward":
            steps.trace.died(steps.born(block, "refresh"))

    count, kept = 14, (0, 1, 2, 3, 7, 8, 9, 12, 13)
    paths = [f"model.layers.{number}" for number in range(count)]
    monkeypatch.setattr(sys.modules[__name__], "PATHS", paths)
    monkeypatch.setattr(sys.modules[__name__], "COUNT", count)
    few = Steps(kept, more)
    assert grown(few.trace, few.cuts, Blocks(paths, kept, PATTERN)) == Steps(range(count), more).trace


def test_blocks_that_stay_may_do_something_of_their_own() -> None:
    def more(steps: Steps, block: int, stage: str) -> None:
        if block in (0, 8) and stage == "backward":
            steps.trace.died(steps.born(block, "refresh"))

    assert of_few(more) == Steps(range(COUNT), more).trace


def in_pattern_alone(steps: Steps, block: int, stage: str) -> None:
    if block == PATTERN and stage == "backward":
        steps.trace.died(steps.born(block, "refresh"))


def ends_a_weight(steps: Steps, block: int, stage: str) -> None:
    if stage == "forward" and steps.weights[block] >= 0:
        steps.trace.died(steps.weights[block])
        steps.weights[block] = -1


def begins_a_stage(steps: Steps, block: int, stage: str) -> None:
    if block in (PATTERN, PATTERN + 1) and stage == "forward":
        steps.trace.mark("within")
        steps.turn(block)
        steps.born(block, "after it")


def ends_late(steps: Steps, block: int, stage: str) -> None:
    """The first block ends in its backward what the pattern has made in its."""
    if block == PATTERN and stage == "backward":
        steps.weights[-1] = len(steps.trace.allocations) - 1
    if block == 8 and stage == "forward" and -1 in steps.weights and steps.weights[-1] is not None:
        steps.trace.died(steps.weights.pop(-1))


@pytest.mark.parametrize("odd", [in_pattern_alone, ends_a_weight, begins_a_stage, ends_late])
def test_what_is_not_alike_is_refused(odd: Odd) -> None:
    with pytest.raises(UnlikeError):
        of_few(odd)


def test_a_block_left_out_needs_as_many_turns_as_the_pattern() -> None:
    """Blocks 3 and 7 are not visited in a row, so that nobody says when those between them have their turn."""
    few = Steps(KEPT)
    at, _ = next(cut for cut in few.cuts if cut[1] == 7)
    few.cuts = sorted([*few.cuts, (at - 1, None)], key=lambda cut: cut[0])
    with pytest.raises(UnlikeError, match="differ"):
        grown(few.trace, few.cuts, BLOCKS)


def test_operations_go_on_as_they_are() -> None:
    few = Steps(KEPT)
    whole = grown(few.trace, few.cuts, BLOCKS)
    assert whole.operations is few.trace.operations
    assert whole.refreshes == 0.5


def test_left_out_is_what_was_not_kept() -> None:
    assert BLOCKS.left_out == [4, 5, 6]
    assert replace(BLOCKS, kept=range(COUNT)).left_out == []
