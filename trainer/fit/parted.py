"""A trace of one process, as it is where weights and states lie in parts on several (`parallel.mode: fsdp`).

Weights, states and the sums of what is not projected shrink to a part. What comes beside them is FSDP2's: in a forward
each block is gathered when it begins, into a buffer and from there into its weights, which go with its end, and the
buffer with the next block's; in a backward the next block's buffer fills while one is at work. Gradients of a block
stay until its backward ends, and are then copied into what is scattered, which stays until the next block's end. All
that lies outside of the blocks is gathered before the forward, and goes with the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from torch import nn

from galore.trainer.memory.trace.trace import Allocation, Trace
from galore.trainer.models.checkpointing import blocks_of
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.parallel.partedtraffic import Parts, own_bytes, padded_bytes

CUT = ("weights", "optimizer_states")


@dataclass(frozen=True)
class Unit:
    """What is gathered together: the block of that `path`, or with none what lies outside of all.

    Attributes:
        nbytes: gathered. `turned`: those of them that are cut along another side than the first, and so copied twice.
        scattered: bytes of gradients that are, in the dtype they are summed in.
        gradients: shape and dtype of each of them as it comes; `taken`: module and shape of those that are projected.
    """

    path: str
    nbytes: int
    turned: int = 0
    scattered: int = 0
    gradients: frozenset[tuple[tuple[int, ...], str]] = frozenset()
    taken: frozenset[tuple[str, tuple[int, ...]]] = frozenset()

    def waits(self, each: Allocation) -> bool:
        """Whether it is a gradient that FSDP2 keeps until the unit's backward ends."""
        return each.category == "gradients" and (each.shape, each.dtype) in self.gradients and not self.takes(each)

    def takes(self, each: Allocation) -> bool:
        """Whether it is of a matrix whose slot takes gradients before FSDP2 sees them."""
        return (each.module, each.shape) in self.taken


def units_of(model: nn.Module, optimizer: GaLoreAdamW, gathered: Sequence[Parts], size: int) -> list[Unit]:
    """What `size` processes gather of `model`, in the order of its forward, and last what lies outside of blocks."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    paths = {id(module): name for name, module in model.named_modules()}
    slots = {id(slot.parameter): slot for slot in optimizer.slots.values()}
    blocks = [paths[id(each)] for each in blocks_of(model)]
    found = []
    for path, parts in zip([*blocks, ""], gathered, strict=True):
        held = [slots[key] for key in parts if key in slots]
        full = [slot for slot in held if not isinstance(slot, ProjectedSlot)]
        found.append(
            Unit(
                path,
                size * own_bytes(parts.values(), size),
                size * own_bytes([each for each in parts.values() if each[1]], size),
                sum(padded_bytes(slot, size) for slot in full),
                frozenset((tuple(each.parameter.shape), _dtype(each.parameter)) for each in full),
                frozenset(
                    (names[id(each.parameter)].rpartition(".")[0], tuple(each.parameter.shape))
                    for each in held
                    if isinstance(each, ProjectedSlot)
                ),
            )
        )
    return found


def in_parts(trace: Trace, size: int, units: Sequence[Unit]) -> Trace:
    """The trace of one of `size` processes. Its operations are those on the whole, of which an update needs a part."""
    rank = _Rank(trace, size, units)
    stages = {at: [what for _, what in marks] for at, marks in groupby(trace.marks, key=lambda mark: mark[0])}
    for at, event in enumerate(trace.events):
        for what in stages.get(at, []):
            rank.turn(what)
        if event < 0:
            rank.died(-event - 1)
        else:
            rank.born(event - 1)
    return rank.found


class _Rank:
    """One process on its way through the events of `trace`."""

    def __init__(self, trace: Trace, size: int, units: Sequence[Unit]) -> None:
        self.trace, self.size, self.blocks, self.outside = trace, size, units[:-1], units[-1]
        self.found = Trace(operations=trace.operations, refreshes=trace.refreshes)
        self.sums = _sums(trace)
        self.numbers: dict[int, int] = {}  # allocation of the trace → that of this process
        # allocations of the trace that change with the end of a unit's backward, and those of them that end there
        self.waiting: dict[Unit, list[int]] = {unit: [] for unit in units}
        self.gone: set[int] = set()
        self.stage, self.at = "", self.outside
        self.held: dict[tuple[str, Unit], int] = {}

    def turn(self, what: str) -> None:
        """Another stage begins."""
        self._leave()
        if self.stage == "backward":
            self._end_backward(self.outside)
            self._free("scattered")
        if self.stage == "forward":
            self._free("buffer")
        self.stage = what.rpartition(": ")[2]
        self.found.mark(what)
        if self.stage == "forward" and ("whole", self.outside) not in self.held:
            self._gather(self.outside)
        if self.stage == "backward" and self.blocks:
            self._hold("buffer", self.blocks[-1], self.blocks[-1].nbytes)

    def born(self, number: int) -> None:
        old = self.trace.allocations[number]
        unit = self._unit(old.module)
        if unit is not self.at and self.stage in ("forward", "backward"):
            self._leave()
            self._enter(unit)
        stays = number in self.sums and not unit.takes(old)
        if self.stage in ("forward", "backward") and (unit.waits(old) or stays):
            self.waiting[unit].append(number)
        # a sum in another dtype than its gradients' is made of what comes back
        if unit.waits(old) or not stays or self.stage != "backward":
            self._put(number, self.size if old.category in CUT else 1)

    def died(self, number: int) -> None:
        unit = self._unit(self.trace.allocations[number].module)
        if number in self.waiting[unit]:
            self.gone.add(number)
        elif self.stage == "backward" and number in self.sums:
            self.waiting[unit].append(number)
            self.gone.add(number)
        else:
            self.found.died(self.numbers[number])

    def _unit(self, module: str) -> Unit:
        return next((each for each in self.blocks if f"{module}.".startswith(f"{each.path}.")), self.outside)

    def _enter(self, unit: Unit) -> None:
        self.at = unit
        if unit is self.outside:
            return
        self._gather(unit)
        if self.stage == "backward":
            self._free("buffer")
            if before := self.blocks.index(unit):
                self._hold("buffer", self.blocks[before - 1], self.blocks[before - 1].nbytes)

    def _leave(self) -> None:
        unit, self.at = self.at, self.outside
        if unit is self.outside:
            return
        if self.stage == "backward":
            self._end_backward(unit)
        else:
            self._free("whole", unit)

    def _gather(self, unit: Unit) -> None:
        """A buffer is filled, unless that is done, and copied into the weights; the one before it goes after that."""
        before = [each for what, each in self.held if what == "buffer" and each is not unit]
        if ("buffer", unit) not in self.held:
            self._hold("buffer", unit, unit.nbytes)
        self._hold("whole", unit, unit.nbytes)
        if unit.turned:
            self.found.died(self._extra(unit.turned, "all_gather"))
        for each in before:
            self._free("buffer", each)

    def _end_backward(self, unit: Unit) -> None:
        """Give up the weights of `unit`, and its gradients for what is scattered, of which a part comes back."""
        self._free("whole", unit)
        self._free("scattered")
        waiting, self.waiting[unit] = self.waiting[unit], []
        if not unit.scattered:
            return
        self._hold("scattered", unit, unit.scattered)
        kept = [number for number in waiting if number not in self.gone]
        # the first of its sum is what comes back itself
        is_first = any(number in self.numbers for number in kept)
        for number in waiting:
            if number in self.numbers:
                self.found.died(self.numbers[number])
        comes = None if is_first else self._extra(unit.scattered // self.size, "reduce_scatter")
        for number in kept:
            self._put(number, self.size)
        if comes is not None:
            self.found.died(comes)

    def _put(self, number: int, by: int) -> None:
        """Let allocation `number` of the trace be here, or one of `by` parts of it."""
        old = self.trace.allocations[number]
        part = replace(
            old, nbytes=-(-old.nbytes // by), high=-(-old.high // by), born=len(self.found.events), died=None
        )
        self.numbers[number] = self.found.born(part)

    def _hold(self, what: str, unit: Unit, nbytes: int) -> None:
        self.held[what, unit] = self._extra(nbytes, "reduce_scatter" if what == "scattered" else "all_gather")

    def _free(self, what: str, unit: Unit | None = None) -> None:
        for key in [each for each in self.held if each[0] == what and unit in (None, each[1])]:
            self.found.died(self.held.pop(key))

    def _extra(self, nbytes: int, op: str) -> int:
        born = len(self.found.events)
        return self.found.born(Allocation(nbytes, nbytes, "temporaries", "", op, (nbytes,), "uint8", born))


def _sums(trace: Trace) -> set[int]:
    """Gradients that are there when the update begins."""
    updates = [at - 1 for at, what in trace.marks if what.endswith("update")]
    gradients = [(number, each) for number, each in enumerate(trace.allocations) if each.category == "gradients"]
    return {number for number, each in gradients if any(each.alive(at) for at in updates)}


def _dtype(parameter: nn.Parameter) -> str:
    return str(parameter.dtype).removeprefix("torch.")
