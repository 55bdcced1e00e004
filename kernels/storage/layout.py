"""How a matrix is kept in codes: types, and how many elements share one scale."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Bits = Literal[4, 8]
GROUP = 128  # elements that share one absmax, along the flattened rows; divides every block_elements


class Compressed(NamedTuple):
    """A matrix of `shape` as `compress` keeps it."""

    codes: Tensor
    absmax: Tensor
    shape: tuple[int, int]

    @property
    def bits(self) -> Bits:
        return 8 if self.codes.dtype == torch.int8 else 4

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.absmax.nbytes


Matrix = Tensor | Compressed

SMALLEST_GROUP, LARGEST_GROUP = 32, 128


def group_size(columns: int) -> int:
    """Elements of a row (columns,) that share a scale: the largest divisor from 32 to 128, or else the row."""
    divisors = (size for size in range(LARGEST_GROUP, SMALLEST_GROUP - 1, -1) if columns % size == 0)
    return next(divisors, columns)
