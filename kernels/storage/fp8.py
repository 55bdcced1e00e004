"""Optimizer states in e4m3: 8 bits with 4 of exponent, one fp32 absmax per 256 elements.

Of a second moment the square root is stored, which halves its range in octaves: e4m3 spans 2⁻⁹ to 448, the square of
that is what v can span within a block. Numbers are saturated, to nearest even.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.storage.blockwise import BLOCK_SIZE

LARGEST = 448.0  # of e4m3; stands for the absmax


def quantize_(codes: Tensor, absmax: Tensor, value: Tensor) -> None:
    """codes (k,) float8_e4m3fn, absmax (⌈k/256⌉,) fp32 ← value (k,) fp32. A block with an inf or nan becomes nan."""
    blocks = torch.nn.functional.pad(value, (0, -value.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    torch.amax(blocks.abs(), 1, out=absmax)
    scale = (absmax / LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
    scaled = (blocks / scale[:, None]).clamp_(-LARGEST, LARGEST)
    codes.copy_(scaled.view(-1)[: value.numel()])


def dequantize(codes: Tensor, absmax: Tensor) -> Tensor:
    """(float8_e4m3fn (k,), absmax (⌈k/256⌉,)) → fp32 (k,)."""
    value = torch.nn.functional.pad(codes.float(), (0, -codes.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    return value.mul_((absmax / LARGEST)[:, None]).view(-1)[: codes.numel()]
