"""The power of two of the largest element: what to divide by before squares are taken of numbers of any size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EXPONENT = 0x7F80_0000  # the bits of it in fp32


def leading_power(x: Tensor, dim: int | None = None) -> Tensor:
    """2^⌊log₂ max|x|⌋ of fp32 x, () or with `dim` kept as 1; no subnormal; ∞ of ∞ or NaN.

    The quotient is exact, so that norms and ratios of ordinary numbers keep their bits. Without it the square of all
    below 2.6e-23 is 0 in fp32, and a norm comes out too small, or as 0.
    """
    top: Tensor = torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=dim is not None)
    return (top.view(torch.int32) & _EXPONENT).view(torch.float32).clamp_min_(torch.finfo(torch.float32).tiny)
