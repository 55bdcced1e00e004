"""bf16: its bits, and arithmetic on it, one number or two in a register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ptx_emulator.block import Value


def bf16_bits(x: Value) -> Value:
    """fp32 → bf16, to nearest even."""
    return torch.from_numpy(x.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)


def bf16_values(bits: Value) -> Value:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def in_bf16(function: Callable[..., Any], *operands: Value) -> Value:
    """`function` of operands that are the bits of bf16, rounded once: every half of a register for itself."""
    parts = [np.ascontiguousarray(x).view(np.uint16).reshape(len(x), -1) for x in operands]
    exact = np.asarray(function(*(bf16_values(x).astype(np.float64) for x in parts)))
    return bf16_bits(_odd(exact)).reshape(parts[0].shape).view(operands[0].dtype).reshape(len(operands[0]))


def _odd(exact: Value) -> Value:
    """float64 → fp32, to the odd neighbour of what is no fp32, so that rounding that to fewer bits is rounding once."""
    held = exact.astype(np.float32)
    beyond = np.abs(held.astype(np.float64)) > np.abs(exact)
    towards_zero = np.where(beyond, np.nextafter(held, np.float32(0)), held).astype(np.float32)
    inexact = (towards_zero.astype(np.float64) != exact) & np.isfinite(exact)
    return (towards_zero.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32)
