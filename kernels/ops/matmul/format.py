"""What a format of 8-bit products is: its codes, its largest number, what of a card it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from galore.kernels.storage.coded import Coded

Bits = Tensor | None  # int32 in [0, 65535] of each element, to round up by chance; None is to nearest


class Format(NamedTuple):
    """Numbers of 8 bits that matrix units multiply.

    Attributes:
        largest: number that a code stands for; a row's scale is its absolute maximum over this.
        encode: fp32 values in [-largest, largest], used up, → codes.
        multiply: (A (M, K), B (N, K)) on the CPU → fp32 (M, N), without the scales of A; `on_cpu` says how.
        reads_int8: whether a weight in int8 codes is multiplied as it is.
        capability: compute capability from which a card multiplies such numbers.
    """

    name: str
    dtype: torch.dtype
    largest: float
    encode: Callable[[Tensor, Bits], Tensor]
    multiply: Callable[[Coded, Coded], Tensor]
    on_cpu: str
    reads_int8: bool
    capability: tuple[int, int]


def uniform(bits: Tensor) -> Tensor:
    """Numbers in (0, 1), each in the middle of one of 2¹⁶ steps, so that rounding has no drift."""
    return bits.float().add_(0.5).mul_(2.0**-16)
