"""A trace of a few of a model's blocks, grown into the trace of all: blocks that are alike do the same, one by one.

A trace is cut into visits, stretches of events in which one block is at work, or none. What a block left out does on
a turn is what its pattern, a traced block with traced ones around it, does; it stands between the visits of the traced
blocks on both sides of it. A visit is told from where its block stands: what it makes, and which storages end that it,
or a block close to it, has made on this turn or an earlier one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

from galore.trainer.memory.trace.trace import Allocation, Trace

REACH = 2  # traced blocks apart that still end each other's storages: hidden states, and inputs that come back early

Cut = tuple[int, int | None]  # index of the event from which on a block, or none, is at work


class UnlikeError(Exception):
    """Blocks that were taken to be alike are not, by what a trace shows of them."""


@dataclass(frozen=True)
class Blocks:
    """All blocks of a model by the paths of their modules, and which of them were traced.

    Attributes:
        kept: numbers of those traced, ascending.
        pattern: the one of them that all left out are like; the next one, traced as well, is like it, too.
    """

    paths: Sequence[str]
    kept: Sequence[int]
    pattern: int

    @property
    def left_out(self) -> list[int]:
        """Numbers of those not traced."""
        return sorted(set(range(len(self.paths))) - set(self.kept))

    @cached_property
    def rank(self) -> dict[int, int]:
        """Number of a traced block → its place among them."""
        return {block: rank for rank, block in enumerate(self.kept)}

    def between(self, before: int | None, after: int | None) -> Iterator[int]:
        """Blocks left out that lie between two which are visited in a row, in that order."""
        if before is None or after is None or not {before, after} <= self.rank.keys():
            return
        if abs(step := self.rank[after] - self.rank[before]) == 1:
            yield from range(before + step, after, step)


class Visit(NamedTuple):
    """Events `first` up to `end`, in which `block`, or none, is at work for the `turn`-th time."""

    block: int | None
    turn: int
    first: int
    end: int


class Made(NamedTuple):
    """A storage by whose it is, in which of its visits it was made and the how many-th there.

    `near`: `block` is the distance from the block at work, in blocks, not a number.
    """

    near: bool
    block: int | None
    turn: int
    ordinal: int


class Birth(NamedTuple):
    """A storage that a visit makes; its module is `path` within a block as in `Made`, or outside of all where None."""

    nbytes: int
    high: int
    category: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    near: bool
    block: int | None
    path: str


Told = Birth | Made | str  # a storage that is made; one that ends; a mark


def grown(trace: Trace, cuts: Sequence[Cut], blocks: Blocks) -> Trace:
    """The trace of all `blocks`, from that of a few of them.

    Args:
        cuts: in the order of events. `trace.operations` go on as they are: what the pattern does has to be counted
            there for all that are like it.

    Raises:
        UnlikeError: what the trace shows of the pattern, the next block, or what they leave, is not alike.
    """
    few = _Few(trace, cuts, blocks)
    patterns = few.patterns()
    whole = _Whole(Trace(operations=trace.operations, refreshes=trace.refreshes), blocks)
    before: int | None = None
    for visit in few.visits:
        for block in blocks.between(before, visit.block):
            whole.add(block, visit.turn, patterns.get(visit.turn, []))
        whole.add(visit.block, visit.turn, few.told(visit))
        before = visit.block
    whole.prove(len(patterns))
    return whole.trace


class _Few:
    """What was traced, as visits."""

    def __init__(self, trace: Trace, cuts: Sequence[Cut], blocks: Blocks) -> None:
        self.trace, self.blocks = trace, blocks
        self.marks: dict[int, list[str]] = {}
        for at, what in trace.marks:
            self.marks.setdefault(at, []).append(what)
        self.visits = list(_visits(cuts, self.marks, len(trace.events)))
        self.made = list(self._made())
        self.place = cache(self._place)

    def _made(self) -> Iterator[Made]:
        """What made each allocation."""
        for visit in self.visits:
            born = sum(event > 0 for event in self.trace.events[visit.first : visit.end])
            yield from (Made(False, visit.block, visit.turn, ordinal) for ordinal in range(born))

    def _place(self, module: str) -> tuple[int | None, str]:
        """The block that a module is in, and its path there."""
        for block in self.blocks.kept:
            path = self.blocks.paths[block]
            if f"{module}.".startswith(f"{path}."):
                return block, module.removeprefix(path)
        return None, module

    def _seen(self, from_block: int | None, block: int | None) -> tuple[bool, int | None]:
        """`near` and `block` as in `Made`."""
        if block is None or from_block is None:
            return False, block
        distance = self.blocks.rank[block] - self.blocks.rank[from_block]
        return (True, distance) if abs(distance) <= REACH else (False, block)

    def told(self, visit: Visit) -> Iterator[Told]:
        """What happens in a visit."""
        end = visit.end + (visit is self.visits[-1])
        for at in range(visit.first, end):
            yield from self.marks.get(at, [])
            if at < visit.end:
                yield self._event(visit.block, self.trace.events[at])

    def _event(self, block: int | None, event: int) -> Told:
        if event < 0:
            made = self.made[-event - 1]
            return Made(*self._seen(block, made.block), made.turn, made.ordinal)
        each = self.trace.allocations[event - 1]
        place, path = self.place(each.module)
        what = (each.nbytes, each.high, each.category, each.op, each.shape, each.dtype)
        return Birth(*what, *self._seen(block, place), path)

    def patterns(self) -> dict[int, list[Told]]:
        """What every block that is like the pattern does, by turn."""
        found, following = (self._turns(self.blocks.pattern + more) for more in (0, 1))
        if found != following:
            raise UnlikeError(f"blocks {self.blocks.pattern} and {self.blocks.pattern + 1} differ")
        for told in found.values():
            if any(isinstance(each, str) or (isinstance(each, Made) and not each.near) for each in told):
                raise UnlikeError(f"what block {self.blocks.pattern} does is not its own alone")
        return found

    def _turns(self, block: int) -> dict[int, list[Told]]:
        return {visit.turn: list(self.told(visit)) for visit in self.visits if visit.block == block}


class _Whole:
    """The trace of all blocks, as it grows."""

    def __init__(self, trace: Trace, blocks: Blocks) -> None:
        self.trace, self.blocks = trace, blocks
        self.alive: dict[tuple[int | None, int, int], int] = {}  # block, turn and ordinal → number of the allocation
        self.turns = Counter[int | None]()

    def add(self, block: int | None, turn: int, told: Iterator[Told] | list[Told]) -> None:
        """Let `block` have a visit."""
        ordinal, trace = 0, self.trace
        self.turns[block] += 1
        for each in told:
            if isinstance(each, Birth):
                nbytes, high, category, op, shape, dtype = each[:6]
                module = self._module(block, each)
                self.alive[block, turn, ordinal] = trace.born(
                    Allocation(nbytes, high, category, module, op, shape, dtype, len(trace.events))
                )
                ordinal += 1
            elif isinstance(each, Made):
                owner = (block or 0) + (each.block or 0) if each.near else each.block
                number = self.alive.pop((owner, each.turn, each.ordinal), None)
                if number is None:
                    raise UnlikeError(f"block {block} ends what block {owner} has not made, on turn {turn}")
                trace.died(number)
            else:
                trace.mark(each)

    def _module(self, block: int | None, birth: Birth) -> str:
        if birth.block is None:
            return birth.path
        return self.blocks.paths[(block or 0) + birth.block if birth.near else birth.block] + birth.path

    def prove(self, turns: int) -> None:
        """Raise UnlikeError unless every block left out had so many turns, and holds what the pattern does."""
        held: dict[int | None, set[tuple[int, int]]] = {}
        for block, turn, ordinal in self.alive:
            held.setdefault(block, set()).add((turn, ordinal))
        for block in self.blocks.left_out:
            if self.turns[block] != turns or held.get(block) != held.get(self.blocks.pattern):
                raise UnlikeError(f"block {block} and block {self.blocks.pattern} differ in the end")


def _visits(cuts: Sequence[Cut], marked: Iterable[int], end: int) -> Iterator[Visit]:
    """Stretches between cuts; no block is at work from a mark on, until the next cut. Those without events left out."""
    turns = Counter[int | None]()
    first, block = 0, None
    # where both are at one event, a cut counts
    for at, _, following in sorted([*((at, 1, to) for at, to in cuts), *((at, 0, None) for at in marked)], key=_order):
        if following != block and at > first:
            yield Visit(block, turns[block], first, at)
            turns[block] += 1
            first = at
        block = following
    yield Visit(block, turns[block], first, end)


def _order(cut: tuple[int, int, int | None]) -> tuple[int, int]:
    return cut[:2]
