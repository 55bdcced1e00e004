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
def _midpoints(signed: bool, device: torch.device) -> Tensor:
    values = code(signed, device)
    return (values[1:] + values[:-1]) / 2


def quantize(value: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """fp32 (k,) → (uint8 (k,), fp32 absmax (⌈k/256⌉,)), each element to the nearest value of the map.

    On the CPU the nearest code is found here: bitsandbytes' own CPU kernel sends an exact 0 to the map's fifth value
    above it, and a moment of 0 must stay 0.
    """
    if device_type(value) == "cuda":
        out, state = _functional().quantize_blockwise(value, code=code(signed, value.device), blocksize=BLOCK_SIZE)
        return out, state.absmax
    blocks = torch.nn.functional.pad(value, (0, -value.numel() % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
    absmax = blocks.abs().amax(1)
    normalised = blocks / absmax.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(normalised, _midpoints(signed, value.device), out_int32=True)
    return codes.to(torch.uint8).view(-1)[: value.numel()], absmax


def dequantize(stored: Tensor, absmax: Tensor, signed: bool) -> Tensor:
    """(uint8 (k,), absmax (⌈k/256⌉,)) → fp32 (k,)."""
    value: Tensor = _functional().dequantize_blockwise(
        stored, absmax=absmax, code=code(signed, stored.device), blocksize=BLOCK_SIZE
    )
    return value
