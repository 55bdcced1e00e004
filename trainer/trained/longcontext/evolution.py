"""The evolution of rotary factors: monotone ones, the best changed and crossed  (LongRoPE, arXiv 2402.13753)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

STEP = 0.01  # between two values of a factor
CHANGED = 0.3  # probability that a factor of a mutation is another one
OVER = 1.25  # the largest factor, as a multiple of the extension
TRIES = 100  # for a crossing that is monotone


@dataclass(frozen=True)
class Candidate:
    """What is searched: a factor for each pair of dimensions, ascending; cos and sin times `attention`; the first
    `start` tokens left alone."""

    factors: tuple[float, ...]
    attention: float
    start: int = 0


@dataclass(frozen=True)
class Space:
    """What is searched in. `attention`: whether it is searched, too; `starts`: numbers of start tokens, ascending."""

    largest: float
    attention: bool
    starts: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Size:
    """How much is searched: candidates at first, the best of all that have children, children of each kind."""

    population: int = 16
    parents: int = 8
    mutations: int = 8
    crossings: int = 8


Score = Callable[[Candidate], float]


def evolve(first: Sequence[Candidate], space: Space, size: Size, seed: int, score: Score) -> Iterator[Candidate]:
    """The best candidate after each generation, without end. A function of the arguments alone.

    Args:
        first: known ones, which the first generation has, and changed copies of them.
        score: what is to be small; asked once for a candidate.
    """
    known = dict[Candidate, float]()

    def scored(candidates: Sequence[Candidate]) -> None:
        for each in candidates:
            if each not in known:
                known[each] = score(each)

    for generation in itertools.count():
        draw = random.Random(f"{seed} {generation}")
        if generation == 0:
            own = list(dict.fromkeys(first))
            starts = itertools.cycle(own)
            scored(own + [mutate(next(starts), space, draw) for _ in range(max(0, size.population - len(own)))])
        else:
            best = sorted(known, key=lambda each: known[each])[: size.parents]
            children = [mutate(draw.choice(best), space, draw) for _ in range(size.mutations)]
            scored(children + [cross(*_pair(best, draw), draw) for _ in range(size.crossings)])
        yield min(known, key=lambda each: known[each])


def mutate(candidate: Candidate, space: Space, draw: random.Random) -> Candidate:
    """Some factors drawn anew between their neighbours; now and then another attention, or another start."""
    factors = list(candidate.factors)
    for number in range(len(factors)):
        if draw.random() < CHANGED:
            low = factors[number - 1] if number else 1.0
            high = factors[number + 1] if number + 1 < len(factors) else space.largest
            factors[number] = _grid(draw.uniform(low, max(low, high)))
    if draw.random() < CHANGED:  # a whole tail: what is slow enough is slowed alike
        begin = draw.randrange(len(factors))
        by = draw.uniform(0.8, 1.25)
        low = factors[begin - 1] if begin else 1.0
        factors[begin:] = [_grid(min(space.largest, max(low, each * by))) for each in factors[begin:]]
    attention, start = candidate.attention, candidate.start
    if space.attention and draw.random() < CHANGED:
        attention = round(min(2.0, max(0.5, attention + draw.gauss(0, 0.04))), 4)
    if len(space.starts) > 1 and draw.random() < CHANGED:
        start = draw.choice(space.starts)
    return Candidate(tuple(factors), attention, start)


def cross(one: Candidate, other: Candidate, draw: random.Random) -> Candidate:
    """Each factor of either parent, so that they ascend."""
    for _ in range(TRIES):
        factors = [draw.choice(pair) for pair in zip(one.factors, other.factors, strict=True)]
        if all(a <= b for a, b in itertools.pairwise(factors)):
            break
    else:
        at = draw.randrange(len(one.factors))
        factors = list(itertools.accumulate([*one.factors[:at], *other.factors[at:]], max))
    chosen = draw.choice((one, other))
    return replace(chosen, factors=tuple(factors))


def ascending(factors: Sequence[float], largest: float) -> tuple[float, ...]:
    """Factors as candidates have them: on the grid, within its ends, none below the one before it."""
    return tuple(itertools.accumulate((_grid(min(largest, max(1.0, each))) for each in factors), max))


def _pair(best: Sequence[Candidate], draw: random.Random) -> tuple[Candidate, Candidate]:
    return (draw.choice(best), draw.choice(best))


def _grid(value: float) -> float:
    return round(round(value / STEP) * STEP, 2)
