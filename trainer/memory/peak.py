"""The moment of a trace in which most memory is in use: when it is, what asked for it, and which tensors hold it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.trace.trace import Allocation, Trace


@dataclass(frozen=True)
class Holder:
    """Tensors of one kind that exist together: `module` with layer numbers left out, sizes in bytes."""

    category: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    nbytes: int


@dataclass(frozen=True)
class Peak:
    """`phase` is such as "refresh step: backward"; `module` and `op` asked for the last byte; sizes in bytes."""

    event: int
    phase: str
    module: str
    op: str
    categories: dict[str, int]
    holders: tuple[Holder, ...]

    @property
    def requested(self) -> int:
        """Bytes that tensors asked for, all categories together."""
        return sum(self.categories.values())


def peak_of(trace: Trace, event: int) -> Peak:
    """What exists right after `event`, at the upper bounds of what is not known exactly."""
    last = trace.allocations[max(0, trace.events[event] - 1)]
    found = trace.by_category(event, high=True)
    categories = {name: found.get(name, 0) for name in CATEGORIES}
    return Peak(event, trace.mark_at(event), last.module, last.op, categories, tuple(_holders(trace.alive(event))))


def phases(trace: Trace) -> dict[str, int]:
    """{"first step": most bytes asked for in it, …}, at upper bounds, in order."""
    curve = trace.requested(high=True)
    ends = [at for at, _ in trace.marks[1:]] + [len(curve)]
    found: dict[str, int] = {}
    for (start, what), end in zip(trace.marks, ends, strict=True):
        name = what.partition(":")[0]
        found[name] = max(found.get(name, 0), *curve[max(0, start - 1) : end], 0)  # what it begins with included
    return found


def folded(module: str) -> str:
    """A module's path with layer numbers left out: `model.layers.*.mlp`."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def _holders(alive: list[Allocation]) -> list[Holder]:
    """The largest first."""
    kinds: dict[tuple[str, str, str, tuple[int, ...], str], list[int]] = {}
    for each in alive:
        kinds.setdefault((each.category, folded(each.module), each.op, each.shape, each.dtype), []).append(each.high)
    holders = [Holder(*kind, count=len(sizes), nbytes=sum(sizes)) for kind, sizes in kinds.items()]
    return sorted(holders, key=lambda holder: -holder.nbytes)


class Kind(NamedTuple):
    """Tensors that are alike, of `nbytes` each; layer numbers are left out of `module`."""

    category: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def largest(trace: Trace, moments: Iterable[int], most: int) -> list[list[tuple[Kind, int]]]:
    """The kinds that hold most right after each of the ascending `moments`, and how many of each exist."""
    kinds = _kinds(trace.allocations)
    alive: Counter[Kind] = Counter()
    found, done = [], 0
    for moment in moments:
        for event in trace.events[done : moment + 1]:
            kind = kinds[abs(event) - 1]
            alive[kind] += 1 if event > 0 else -1
            if not alive[kind]:
                del alive[kind]
        done = moment + 1
        found.append(heapq.nlargest(most, alive.items(), key=lambda item: item[0].nbytes * item[1]))
    return found


def _kinds(allocations: list[Allocation]) -> list[Kind]:
    modules = {module: folded(module) for module in {each.module for each in allocations}}
    return [
        Kind(each.category, modules[each.module], each.op, each.shape, each.dtype, each.high) for each in allocations
    ]
