"""Which tensors hold the memory at each of many moments of a trace, in one pass over it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from galore.trainer.memory.peak import folded
from galore.trainer.memory.trace.trace import Allocation, Trace


class Kind(NamedTuple):
    """Tensors that are alike, of `nbytes` each; layer numbers are left out of `module`."""

    category: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def largest(trace: Trace, moments: Iterable[int], most: int) -> list[list[tuple[Kind, int]]]:
    """For each of the ascending `moments`: the kinds that hold most right after it, and how many of each exist."""
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
