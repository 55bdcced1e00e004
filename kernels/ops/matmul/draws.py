"""Random bits of the matrices that a step rounds: keyed by seed, step, layer and how often the layer was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from galore.kernels.storage.rounding import RoundingNoise, key_words, mix

PARTS = 48  # place of a matrix' part in its number


class Draws:
    """Random bits of one model. `clock` is the number of the step; `forget` is called after each."""

    def __init__(self, seed: int, clock: Callable[[], int] = lambda: 0) -> None:
        self.seed, self.clock = mix(seed, 0x8B17), clock
        self._asked: Counter[int] = Counter()
        self._noise: RoundingNoise | None = None

    def of(self, layer: int) -> Draw:
        """Bits of one more matrix of a layer."""
        self._asked[layer] += 1
        return Draw(self, (layer << 24) + self._asked[layer])

    def forget(self) -> None:
        """Begin to count anew."""
        self._asked.clear()
        self._noise = None

    def noise(self, device: torch.device) -> RoundingNoise:
        """The pool of this step."""
        if self._noise is None or self._noise.key[1] != self.clock():
            self._noise = RoundingNoise(self.seed, self.clock(), device)
        return self._noise


class Draw(NamedTuple):
    """Random bits of one matrix; `number` tells it from others of the step."""

    draws: Draws
    number: int

    @property
    def words(self) -> tuple[int, int]:
        """The key of `reference.random_bits`, from which kernels make them."""
        return key_words(self.draws.seed, self.draws.clock(), self.number)

    def part(self, number: int) -> Draw:
        """Bits of a part of the matrix that is rounded by itself."""
        return self._replace(number=self.number + (number << PARTS))

    def window(self, block: int, length: int, device: torch.device) -> Tensor:
        """int32 (length,) of a block of rows, from the pool that torch's path draws once a step."""
        return self.draws.noise(device).window(self.number, block, length)
