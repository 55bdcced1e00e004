"""The memory of a trace over time, thinned to the moments that a screen can show; each of them as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galore.trainer.memory.allocator.expandable import ExpandableAllocator
from galore.trainer.memory.allocator.segments import CachingAllocator
from galore.trainer.memory.categories import CATEGORIES
from galore.trainer.memory.chart.stages import Stage, edges, stages
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Trace

Ints = NDArray[np.int64]
STACK = ("cuda_context", *CATEGORIES)
MOST_MOMENTS = 4000


@dataclass(frozen=True)
class Curve:
    """Bytes at upper bounds, right after each of M moments.

    Attributes:
        moments: indices into the trace's events, ascending (M,).
        places: where each moment stands between 0 and 1 on the axis of time (M,).
        parts: bytes by category, in the order of `STACK`, the driver's context first; each (M,).
        reserved: what the process holds of the card, the context and the allocator's cache included (M,).
        stages: the stages of the steps, in order.
        peak: the moment with most memory handed out, an index into `moments`.
    """

    moments: Ints
    places: NDArray[np.float64]
    parts: dict[str, Ints]
    reserved: Ints
    stages: list[Stage]
    peak: int

    @property
    def total(self) -> Ints:
        """All categories together (M,)."""
        total: Ints = np.sum(list(self.parts.values()), axis=0)
        return total

    def place(self, event: int) -> float:
        """Where any event stands between 0 and 1 on the axis of time."""
        return float(np.interp(event, *edges(self.stages)))

    def envelope(self, columns: int) -> Ints:
        """The moment with most memory of each of `columns` equal stretches of time; none of a stretch without any."""
        column = np.floor(self.places * columns)
        order = np.lexsort((self.total, column))
        last = np.append(column[order][1:] != column[order][:-1], True)
        chosen: Ints = order[last]
        return chosen


def curve(profile: Profile, most: int = MOST_MOMENTS) -> Curve:
    """`profile`'s trace at no more than `most` moments (well above the number of stages).

    Kept are the most and the least of every short stretch, where the stages begin, the end, and the peaks.
    """
    trace, card = profile.trace, profile.card
    found = stages(trace)
    parts = _by_category(trace)
    total = parts.sum(axis=0)
    reserved = _reserved(trace, profile.expandable)
    peaks = [profile.peak.event, int(total.argmax()), int(reserved.argmax()), len(total) - 1]
    moments = np.array(sorted({*peaks, *_extremes(total, found, (most - len(peaks)) // 2)}))
    context = np.full(len(moments), card.context_high, dtype=np.int64)
    return Curve(
        moments,
        np.interp(moments, *edges(found)),
        {"cuda_context": context, **dict(zip(CATEGORIES, parts[:, moments], strict=True))},
        reserved[moments] + card.context_high,
        found,
        int(np.searchsorted(moments, profile.peak.event)),
    )


def _by_category(trace: Trace) -> Ints:
    """Bytes alive after each event (len(CATEGORIES), events)."""
    row = {name: number for number, name in enumerate(CATEGORIES)}
    allocations = [trace.allocations[abs(event) - 1] for event in trace.events]
    parts = np.zeros((len(CATEGORIES), len(allocations)), dtype=np.int64)
    parts[[row[each.category] for each in allocations], np.arange(len(allocations))] = [
        each.high for each in allocations
    ]
    return np.cumsum(parts * np.sign(np.array(trace.events, dtype=np.int64)), axis=1)


def _reserved(trace: Trace, expandable: bool) -> Ints:
    """Bytes that PyTorch holds of the device after each event, if that has no limit (events,)."""
    allocator = ExpandableAllocator() if expandable else CachingAllocator()
    sizes, found = trace.sizes(high=True), np.zeros(len(trace.events), dtype=np.int64)
    for index, event in enumerate(trace.events):
        if event > 0:
            allocator.malloc(event, sizes[event - 1])
        else:
            allocator.free(-event)
        found[index] = allocator.reserved
    return found


def _extremes(total: Ints, found: list[Stage], pairs: int) -> set[int]:
    """Indices of the first, the most and the least of stretches that are equally wide on the axis of time."""
    shares = np.array([stage.right - stage.left for stage in found])
    counts = np.maximum(1, np.floor(shares * (pairs - 2 * len(found))).astype(int))
    kept = set()
    for stage, count in zip(found, counts, strict=True):
        kept.add(stage.start)
        for stretch in np.array_split(np.arange(stage.start, stage.end), min(count, stage.end - stage.start)):
            kept |= {int(stretch[total[stretch].argmax()]), int(stretch[total[stretch].argmin()])}
    return kept
