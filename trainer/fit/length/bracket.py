"""The largest multiple of a step whose need stays within a limit, found in a few evaluations: numbers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Need = Callable[[int], float]


class Found(NamedTuple):
    """`fits`: the largest that does, 0 where none does; `too_large`: the least that was tried and does not."""

    fits: int
    too_large: int | None


def largest(need: Need, limit: float, step: int, first: int, most: int, tries: int) -> Found:
    """The largest multiple of `step` up to `most` whose growing `need` is within `limit`, and what is known beyond it.

    Needs grow nearly in proportion: the next one to try is where a line through the two nearest crosses the limit.
    After `tries` evaluations the largest is returned of those that were seen to fit.
    """
    known: dict[int, float] = {}
    at = _multiple(min(first, most), step)
    while at not in known and len(known) < tries:
        known[at] = need(at)
        at = _next(known, limit, step, most)
    fitting = [each for each, needed in known.items() if needed <= limit]
    return Found(max(fitting, default=0), min((each for each in known if each not in fitting), default=None))


def _next(known: dict[int, float], limit: float, step: int, most: int) -> int:
    """What to try next; one that is known where nothing is left to try."""
    low = max((each for each, needed in known.items() if needed <= limit), default=0)
    high = min((each for each, needed in known.items() if needed > limit), default=None)
    top = _multiple(most, step) if high is None else high - step
    if low >= top:
        return low or step
    *_, before, last = (None, *(needed <= limit for needed in known.values()))
    if low and high is not None and before == last:  # a line that comes from one side only would take long
        return _multiple((low + high) // 2, step)
    return min(max(_crossing(known, limit, step), low + step), top)


def _crossing(known: dict[int, float], limit: float, step: int) -> int:
    """Where a line through the two nearest to the limit crosses it; of one alone a quarter, or four times as much."""
    (x, y), *others = sorted(known.items(), key=lambda each: abs(each[1] - limit))[:2]
    if others and (others[0][1] - y) * (others[0][0] - x) > 0:
        ((other, needed),) = others
        return _multiple(int(x + (limit - y) * (other - x) / (needed - y)), step)
    return _multiple(min(known) // 4 if y > limit else 4 * max(known), step)


def _multiple(number: int, step: int) -> int:
    return max(step, number // step * step)
