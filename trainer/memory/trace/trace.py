"""A training step as storages that are born and die: what a caching allocator needs to know, and no tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple


@dataclass(slots=True)
class Allocation:
    """One storage. `nbytes` as requested; `high` is the most it can be where `nbytes` is only a lower bound.

    `born` and `died` are indices into `Trace.events`; one that lives on has `died` None. `module` is the dotted path of
    the module that made it, empty outside the model.
    """

    nbytes: int
    high: int
    category: str
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    born: int
    died: int | None = None

    def alive(self, event: int) -> bool:
        """Whether it exists right after `event`."""
        return self.born <= event and (self.died is None or self.died > event)


class Described(NamedTuple):
    """A tensor that an operation was given, or made."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: Any
    device: str


class Call(NamedTuple):
    """An operation on described tensors and plain values: what its result and its time depend on.

    `function` is one of torch's, or a word for what none of them shows: a kernel's launch or a copy over the bus, whose
    arguments are its FLOPs and the bytes it moves.
    """

    function: Any
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]


@dataclass(slots=True)
class Operation:
    """A call, the tensors it makes, views and what it changes in place left out, and how often it is made, by part.

    `result` is what it returns, where that is one fresh tensor on the device.
    """

    call: Call
    made: tuple[Described, ...]
    result: Described | None = None
    counts: dict[tuple[str, str], float] = field(default_factory=dict)  # (phase, stage)

    def count(self, phase: str, stage: str, times: int) -> None:
        """Count it so many times more."""
        part = (phase, stage)
        self.counts[part] = self.counts.get(part, 0) + times


@dataclass
class Trace:
    """A step's storages, and what was done in each part of it.

    Attributes:
        events: i + 1 where allocation i is born, -(i + 1) where it dies.
        marks: (index of an event, what begins).
        operations: what was done, each once.
        refreshes: how much of what the traced refresh has above the ordinary step a step has in the mean of many.
    """

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    refreshes: float = 0.0

    def born(self, allocation: Allocation) -> int:
        """Append an allocation; returns its number."""
        self.allocations.append(allocation)
        self.events.append(len(self.allocations))
        return len(self.allocations) - 1

    def died(self, index: int) -> None:
        """Append the death of allocation `index`."""
        self.allocations[index].died = len(self.events)
        self.events.append(-index - 1)

    def mark(self, what: str) -> None:
        """What comes next belongs to `what`."""
        self.marks.append((len(self.events), what))

    def sizes(self, high: bool = False) -> list[int]:
        """Bytes of every allocation, at their lower or upper bounds."""
        return [each.high if high else each.nbytes for each in self.allocations]

    def requested(self, high: bool = False) -> list[int]:
        """Σ bytes alive after every event, as they were asked for."""
        sizes = self.sizes(high)
        return list(accumulate(sizes[event - 1] if event > 0 else -sizes[-event - 1] for event in self.events))

    def alive(self, event: int) -> list[Allocation]:
        """What exists right after `event`."""
        return [each for each in self.allocations if each.alive(event)]

    def by_category(self, event: int, high: bool = False) -> dict[str, int]:
        """Bytes alive right after `event`, as they were asked for."""
        found: dict[str, int] = {}
        for each in self.alive(event):
            found[each.category] = found.get(each.category, 0) + (each.high if high else each.nbytes)
        return found

    def mark_at(self, event: int) -> str:
        """The last mark at or before `event`."""
        return next((what for at, what in reversed(self.marks) if at <= event), "")
