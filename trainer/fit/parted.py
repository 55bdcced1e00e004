"""A trace of one process, as it is where weights and states lie in parts on several (`parallel.mode: fsdp`).

Weights, states and the sums of what is not projected shrink to a part. What comes beside them: the weights outside of
the blocks, gathered for a whole forward and backward; two blocks, one at work and one on its way; and in the backward
the gradients outside of the blocks, once as they are and once as they are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from torch import nn

from galore.trainer.memory.trace.trace import Allocation, Trace

CUT = ("weights", "optimizer_states")


@dataclass(frozen=True)
class Gathered:
    """Bytes that are whole at times: of weights outside of blocks, of the largest block, and of gradients."""

    outside: int
    block: int
    gradients: int

    @classmethod
    def of(cls, model: nn.Module, blocks: Sequence[nn.Module], sums: int, trained: set[int]) -> Gathered:
        """What `model` gathers; its gradients are summed in numbers of `sums` bytes, those of `trained` ids exist."""
        inside = {id(each) for block in blocks for each in block.parameters()}
        rest = [each for each in model.parameters() if id(each) not in inside]
        largest = max((sum(each.nbytes for each in block.parameters()) for block in blocks), default=0)
        units = [rest, *(list(block.parameters()) for block in blocks)]
        moved = (
            sum(each.numel() * (each.element_size() + sums) for each in unit if id(each) in trained) for unit in units
        )
        return cls(sum(each.nbytes for each in rest), largest, max(moved))


def in_parts(trace: Trace, size: int, gathered: Gathered) -> Trace:
    """The trace of one of `size` processes. Its operations are those on the whole, of which an update needs a part."""
    sums = _sums(trace)
    found, numbers = Trace(operations=trace.operations, refreshes=trace.refreshes), dict[int, int]()
    stages = {at: [what for _, what in marks] for at, marks in groupby(trace.marks, key=lambda mark: mark[0])}
    moving: int | None = None
    for at, event in enumerate(trace.events):
        for what in stages.get(at, []):
            if moving is not None:
                found.died(moving)
            found.mark(what)
            if what == "model":
                found.born(_extra(found, gathered.outside + 2 * gathered.block, "all_gather"))
            moving = found.born(_extra(found, gathered.gradients, "reduce_scatter")) if "backward" in what else None
        if event < 0:
            found.died(numbers[-event - 1])
            continue
        old = trace.allocations[event - 1]
        by = size if old.category in CUT or event - 1 in sums else 1
        part = replace(old, nbytes=-(-old.nbytes // by), high=-(-old.high // by), born=len(found.events), died=None)
        numbers[event - 1] = found.born(part)
    return found


def _sums(trace: Trace) -> set[int]:
    """Gradients that are there when the update begins."""
    updates = [at - 1 for at, what in trace.marks if what.endswith("update")]
    gradients = [(number, each) for number, each in enumerate(trace.allocations) if each.category == "gradients"]
    return {number for number, each in gradients if any(each.alive(at) for at in updates)}


def _extra(trace: Trace, nbytes: int, op: str) -> Allocation:
    return Allocation(nbytes, nbytes, "temporaries", "", op, (nbytes,), "uint8", born=len(trace.events))
