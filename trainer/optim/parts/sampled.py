"""Columns of a weight that are sampled by turns: which have theirs, and the sum of their gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galore.kernels.linear import Factors, Pieces
from galore.trainer.optim.parts.storage import GradientSum
from galore.trainer.optim.parts.subspace import Subspace


class SampledColumns:
    """A share of the b columns of an oriented weight (a, b) at a time, block after block; a turn lasts one gap.

    All blocks have one width, so that every step holds as much: the last one begins before the one before it ends.

    Args:
        dtype: of the sum of gradients.
    """

    def __init__(self, subspace: Subspace, dtype: torch.dtype) -> None:
        self.subspace, self.sum = subspace, GradientSum(dtype)
        self.width = sampled_width(subspace.weight.group["sampled_share"], subspace.b)

    @property
    def turn(self) -> int:
        """Which turn the step being accumulated belongs to."""
        return self.subspace.schedule.turn(self.subspace.clock())

    @property
    def block(self) -> slice:
        """The columns whose turn it is; layers begin at different ones."""
        blocks = math.ceil(self.subspace.b / self.width)
        first = (self.turn + self.subspace.weight.index) % blocks * self.width
        first = min(first, self.subspace.b - self.width)
        return slice(first, first + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """That of the sum (a, k)."""
        return self.subspace.a, self.width

    def add(self, grad: Tensor | Factors | Pieces) -> None:
        """Take over the columns of one micro-batch's gradient, which stays the caller's."""
        self.sum.add(self.subspace.part(grad, self.block))

    def beside(self, r: Tensor) -> list[Tensor]:
        """What a step applies, given its whole R (r, b): R of the other columns, and the sum."""
        here = self.sum.here
        found = [r[:, : self.block.start], r[:, self.block.stop :], *([] if here is None else [here])]
        return [each for each in found if each.numel() > 0]


def sampled_width(share: float, b: int) -> int:
    """How many of b columns have their turn at a time: an even number, as two of 4 bits lie in a byte, or all."""
    return min(b, 2 * math.ceil(share * b / 2))
