"""Several sources as one: whose turn it is at each position, a function of numbers, and all rows under one number."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from galore.trainer.data.rows.mapped import Order
from galore.trainer.data.rows.order import permute
from galore.trainer.data.rows.packing import Extras, Rows, padded
from galore.trainer.data.tokens.store import Ids

Weights = npt.NDArray[np.float64]

ENDLESS = 1 << 48
"""How many rows a stream says it has. Its rows come in the order of their numbers, which is theirs alone."""

LONGEST_PERIOD = 4096  # positions after which the counts are exact; other weights are rounded to it


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Positions of each source in one period: exactly as the decimals say if they need no more than 4,096 of them,
    else to within one of that many, and never none."""
    exact = [Fraction(str(weight)) for weight in weights]
    whole = [each * math.lcm(*(part.denominator for part in exact)) for each in exact]
    counts = [int(each) // math.gcd(*map(int, whole)) for each in whole]
    if sum(counts) <= LONGEST_PERIOD:
        return tuple(counts)
    wanted = [each * LONGEST_PERIOD / sum(exact) for each in exact]
    floors = [max(1, math.floor(each)) for each in wanted]
    rest = sorted(range(len(wanted)), key=lambda at: (floors[at] - wanted[at], at))
    for at in rest[: max(0, LONGEST_PERIOD - sum(floors))]:
        floors[at] += 1
    return tuple(floors)


@functools.cache
def spread_evenly(shares: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Whose turn it is at each entry of a period, unpermuted; only read."""
    turns = sorted(
        ((2 * turn + 1) / (2 * share), source) for source, share in enumerate(shares) for turn in range(share)
    )
    return np.array([source for _, source in turns], np.int64)


@dataclass(frozen=True)
class MixedOrder(Order):
    """Which rows a step sees where `MixedRows` has them.

    Positions are cut into periods. In each every source has its share, spread evenly, or with `shuffle` permuted by
    (seed, period). What a source is given of them it fills with its own epochs, each a permutation of its rows; a
    stream with its rows as they come.
    """

    sizes: tuple[int, ...]  # rows of each source; ENDLESS of a stream
    shares: tuple[int, ...]

    def turns(self, step: int) -> list[int]:
        """How many rows each source has given before a step."""
        number, rest = divmod(step * self.global_batch_size, sum(self.shares))
        (pattern,) = self._patterns(np.array([number]))
        here = np.bincount(pattern[:rest], minlength=len(self.shares))
        return [number * share + int(count) for share, count in zip(self.shares, here, strict=True)]

    def rows(self, step: int, num_sequences: int) -> Ids:
        positions = step * self.global_batch_size + np.arange(self.global_batch_size, dtype=np.int64)
        number, entry = np.divmod(positions, sum(self.shares))
        patterns, at = self._patterns(np.arange(number[0], number[-1] + 1)), number - number[0]
        found, before = np.empty_like(positions), 0
        for source, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            its = patterns == source
            mine = its[at, entry]
            turn = number * share + np.cumsum(its, axis=1)[at, entry] - 1
            epoch, index = np.divmod(turn[mine], size)
            if self.shuffle and size < ENDLESS:
                index = permute(index, size, self.seed + source, epoch)
            found[mine] = before + index
            before += size
        return found

    def _patterns(self, numbers: Ids) -> Ids:
        """Whose turn it is at each entry of each of the periods, (len(numbers), period)."""
        pattern = spread_evenly(self.shares)
        if not self.shuffle:
            return np.tile(pattern, (len(numbers), 1))
        entries = np.tile(np.arange(len(pattern), dtype=np.int64), len(numbers))
        permuted = permute(entries, len(pattern), self.seed, np.repeat(numbers, len(pattern)))
        return pattern[permuted].reshape(len(numbers), -1)


class MixedRows:
    """The rows of several sources, one source after the other. See `packing.Rows`.

    Args:
        loss_weights: what a target of each source counts.
    """

    def __init__(self, parts: Sequence[Rows], max_length: int, loss_weights: Sequence[float] = ()) -> None:
        self.parts, self._max_length = parts, max_length
        self.loss_weights = np.array(loss_weights or [1.0] * len(parts), np.float64)
        self._bounds = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def read(self, numbers: Ids) -> tuple[Ids, Ids]:
        input_ids = np.empty((len(numbers), self._max_length), np.int64)
        labels = np.empty_like(input_ids)
        for part, here, own in self._by_part(numbers):
            input_ids[here], labels[here] = part.read(own)
        return input_ids, labels

    def positions(self, numbers: Ids) -> Ids | None:
        """Positions of tokens in their documents, (b, max_length), where a source isolates them; else in the row."""
        found = np.tile(np.arange(self._max_length), (len(numbers), 1))
        restart = False
        for part, here, own in self._by_part(numbers):
            at = part.positions(own)
            if at is not None:
                found[here], restart = at, True
        return found if restart else None

    def extras(self, numbers: Ids) -> Extras | None:
        found = [np.empty(0, np.float32)] * len(numbers)
        for part, here, own in self._by_part(numbers):
            extras = part.extras(own)
            for row, each in zip(np.flatnonzero(here), [] if extras is None else extras, strict=False):
                found[row] = each
        return padded(found) if any(len(each) for each in found) else None

    def weights(self, numbers: Ids) -> Weights | None:
        """What a target of each row counts, (b,); None where each of every source counts once."""
        return None if (self.loss_weights == 1).all() else self.loss_weights[self._owners(numbers)]

    def _owners(self, numbers: Ids) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._bounds, numbers, side="right") - 1

    def _by_part(self, numbers: Ids) -> list[tuple[Rows, npt.NDArray[np.bool_], Ids]]:
        """Each source that has some of the rows, where they are among `numbers`, and what it calls them itself."""
        owner = self._owners(numbers)
        found = [(part, owner == at, int(self._bounds[at])) for at, part in enumerate(self.parts)]
        return [(part, here, numbers[here] - start) for part, here, start in found if here.any()]

    @property
    def summary(self) -> dict[str, Any]:
        return merged([part.summary for part in self.parts])

    @property
    def used(self) -> int:
        return sum(part.used for part in self.parts)

    def lengths(self) -> Iterator[Ids]:
        return chain.from_iterable(part.lengths() for part in self.parts)


def merged(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One summary of several: numbers are added, names put together, and of a text the first is told."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for each in summaries for key in each):
        values = [each[key] for each in summaries if key in each]
        if isinstance(values[0], dict):
            found[key] = merged(values)
        elif isinstance(values[0], list):
            found[key] = [item for value in values for item in value]
        else:
            found[key] = sum(values) if isinstance(values[0], int) else values[0]
    return found
