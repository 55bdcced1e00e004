"""The course of a number in one line of a terminal, however many values there were."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"  # from low to high
MOST = 256  # means that are kept; no terminal is wider than it is worth


class Course:
    """Means over spans of equal length, which doubles whenever there would be more than MOST of them."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._span, self._open = 1, list[float]()
        self.first = self.last = math.nan

    def add(self, value: float) -> None:
        """Take the next value; one that is not finite has no place in the line."""
        if not math.isfinite(value):
            return
        self.first, self.last = value if math.isnan(self.first) else self.first, value
        self._open.append(value)
        if len(self._open) < self._span:
            return
        self._means.append(_mean(self._open))
        self._open = []
        if len(self._means) == 2 * MOST:
            self._means = [_mean(self._means[at : at + 2]) for at in range(0, 2 * MOST, 2)]
            self._span *= 2

    def line(self, width: int, marks: str = BLOCKS) -> str:
        """The course in at most `width` marks, the lowest for the lowest mean; empty before there are two."""
        values = [*self._means, *([_mean(self._open)] if self._open else [])]
        if len(values) < 2 or width < 2:
            return ""
        if len(values) > width:
            edges = [at * len(values) // width for at in range(width + 1)]
            values = [_mean(values[begin:end]) for begin, end in itertools.pairwise(edges)]
        low, high = min(values), max(values)
        return "".join(marks[round((len(marks) - 1) * _share(value, low, high))] for value in values)


def _share(value: float, low: float, high: float) -> float:
    """Where `value` lies between both, halved so that the largest floats stay finite."""
    return (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(value / len(values) for value in values)
