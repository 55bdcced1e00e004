"""8-bit blockwise storage of optimizer states in the dynamic format of bitsandbytes (arXiv 2110.02861)."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import device_type

BLOCK_SIZE = 256  # elements that share one fp32 absmax; divides every block_elements


@functools.cache
def _functional() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about kernels that are not used here
    import bitsandbytes.functional

    return bitsandbytes.functional


@functools.cache
def code(signed: bool, device: torch.device) -> Tensor:
    """The 256 fp32 values of the dynamic map, signed for first moments and unsigned for second moments."""
    return torch.as_tensor(_functional().create_dynamic_map(signed=signed)).to(device)


@functools.cache
def _buckets(signed: bool) -> Tensor:
    """int32 (2¹⁶,), for fp32 numbers by their upper 16 bits: `_nearest_` adds what their lower bits add to the code.

    Numbers that share their upper bits have one code, or two with the midpoint m between them. The entry is 2¹⁶ times the
    lower code, plus what is missing to the next multiple of 2¹⁶ for a number at m: any greater one carries.
    """
    values = code(signed, torch.device("cpu"))
    midpoints = (values[1:] + values[:-1]) / 2
    upper = torch.arange(1 << 16, dtype=torch.int32) << 16
    ends = torch.stack((upper, upper | 0xFFFF)).view(torch.float32)
    low, high = torch.bucketize(ends, midpoints, out_int32=True).aminmax(dim=0)
    missing = 0xFFFF - _lower_bits_(midpoints[low.clamp_max(len(midpoints) - 1)].view(torch.int32), signed)
    return (low << 16) + torch.where(high > low, missing, 0)


def _lower_bits_(bits: Tensor, signed: bool) -> Tensor:
    """The lower 16 of the bits of fp32 numbers, in the order of the numbers that share the upper ones; in place.

    Among negative numbers it is the reverse of the bits' own. An unsigned map has one code for all of them.
    """
    if signed:
        bits.bitwise_xor_(bits >> 31)
    return bits.bitwise_and_(0xFFFF)


def _nearest_(scaled: Tensor, signed: bool) -> Tensor:
    """fp32 (blocks, 256), at most 1 in magnitude or nan → uint8 codes; `scaled` is used up.

    The code is the number of midpoints below: of two values as near, the lower one; of nan, the last.
    """
    bits = scaled.view(torch.int32)
    upper = (bits >> 16).bitwise_and_(0xFFFF).long()
    buckets = _buckets(signed).to(scaled.device).expand(len(bits), -1)  # by rows, which threads share out
    codes = buckets.gather(1, upper).add_(_lower_bits_(bits, signed)).bitwise_right_shift_(16)
    return codes.to(torch.uint8)


def quantize(value: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """fp32 (k,) → (uint8 (k,), fp32 absmax (⌈k/256⌉,)), each element to the nearest value of the map times absmax.

    A block that holds an inf or nan reads back as nan and inf throughout.

    On the CPU the nearest code is found here: bitsandbytes' own CPU kernel sends an exact 0 to the map's fifth value
    above it, and a moment of 0 must stay 0.
    """
    if device_type(value) == "cuda":
        out, state = _functional().quantize_blockwise(value, code=code(signed, value.device), blocksize=BLOCK_SIZE)
        return out, state.absmax
    count, tail = value.numel(), -value.numel() % BLOCK_SIZE
    blocks = (torch.nn.functional.pad(value, (0, tail)) if tail else value).view(-1, BLOCK_SIZE)
    absmax = torch.maximum(blocks.amax(1).abs(), blocks.amin(1).abs())
    scaled = blocks / absmax.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return _nearest_(scaled, signed).view(-1)[:count], absmax


def dequantize(stored: Tensor, absmax: Tensor, signed: bool) -> Tensor:
    """(uint8 (k,), absmax (⌈k/256⌉,)) → fp32 (k,)."""
    value: Tensor = _functional().dequantize_blockwise(
        stored, absmax=absmax, code=code(signed, stored.device), blocksize=BLOCK_SIZE
    )
    return value
