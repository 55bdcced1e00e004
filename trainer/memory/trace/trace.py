"""A training step as storages that are born and die: what a caching allocator needs to know, and no tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate


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


@dataclass
class Trace:
    """`events`: i + 1 where allocation i is born, -(i + 1) where it dies. `marks`: (index of an event, what begins)."""

    allocations: list[Allocation] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)

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
