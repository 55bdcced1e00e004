"""cvt: between floating formats, integers of all widths, and packed pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ptx_emulator.arithmetic import Step
from ptx_emulator.bf16 import bf16_bits, bf16_values
from ptx_emulator.block import Block, Value, dtype_of, source, target
from ptx_emulator.faults import Fault
from ptx_emulator.parse import Instruction

E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
ROUNDINGS: dict[str, Callable[[Value], Value]] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def e4m3_bits(x: Value) -> Value:
    """fp32 → e4m3, to nearest even, saturated."""
    held = torch.from_numpy(np.clip(x, -448, 448).astype(np.float32)).to(torch.float8_e4m3fn)
    return held.view(torch.uint8).numpy()


def f16_bits(x: Value) -> Value:
    """fp32 → f16, to nearest even."""
    with np.errstate(over="ignore"):  # what is more than f16 holds is infinite
        return x.astype(np.float16).view(np.uint16)


def f16_bits_towards_zero(x: Value) -> Value:
    nearest = x.astype(np.float16)
    beyond = np.abs(nearest.astype(np.float32)) > np.abs(x)
    return np.where(beyond, np.nextafter(nearest, np.float16(0)), nearest).astype(np.float16).view(np.uint16)


def tf32_bits(x: Value) -> Value:
    """fp32 → 10 bits after the point, to nearest, of two the one away from 0."""
    return (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)


def _pair(function: Callable[[Value], Value], width: int, upper: Value, lower: Value) -> Value:
    dtype = np.uint32 if width == 16 else np.uint16
    return (function(upper).astype(dtype) << dtype(width)) | function(lower).astype(dtype)


def _halves_of_f16x2(x: Value) -> tuple[Value, Value]:
    parts = (x >> np.uint32(16)).astype(np.uint16), x.astype(np.uint16)
    return parts[0].view(np.float16).astype(np.float32), parts[1].view(np.float16).astype(np.float32)


def _e4m3x2_to_f16x2(x: Value) -> Value:
    upper, lower = (E4M3[(x >> np.uint16(shift)) & np.uint16(255)] for shift in (8, 0))
    return _pair(f16_bits, 16, upper, lower)


# (to, from) → (kind that the operands are read as, function)
FORMATS: dict[tuple[str, str], tuple[str, Callable[..., Value]]] = {
    ("bf16", "f32"): ("f32", bf16_bits),
    ("f32", "bf16"): ("b16", bf16_values),
    ("bf16x2", "f32"): ("f32", lambda x, y: _pair(bf16_bits, 16, x, y)),
    ("f16x2", "f32"): ("f32", lambda x, y: _pair(f16_bits, 16, x, y)),
    ("f32", "f16"): ("b16", lambda x: x.view(np.float16).astype(np.float32)),
    ("tf32", "f32"): ("f32", tf32_bits),
    ("e4m3x2", "f32"): ("f32", lambda x, y: _pair(e4m3_bits, 8, x, y)),
    ("e4m3x2", "f16x2"): ("b32", lambda x: _pair(e4m3_bits, 8, *_halves_of_f16x2(x))),
    ("f16x2", "e4m3x2"): ("b16", _e4m3x2_to_f16x2),
}


def convert(i: Instruction) -> Step:
    """Any cvt."""
    modes, to, of = i.opcode[1:-2], i.opcode[-2], i.opcode[-1]
    write = target(i.operands[0])
    if (to, of) == ("f16", "f32"):
        kind = "f32"
        function: Callable[..., Value] = f16_bits_towards_zero if "rz" in modes else f16_bits
    elif (to, of) in FORMATS:
        kind, function = FORMATS[to, of]
    else:
        kind, function = of, _number(modes, to, of)
    reads = [source(x, kind) for x in i.operands[1:]]

    def step(block: Block, mask: Value | None) -> None:
        write(block, function(*(read(block) for read in reads)), mask)

    return step


def _number(modes: tuple[str, ...], to: str, of: str) -> Callable[[Value], Value]:
    """Between fp32 and integers, and from one integer to another."""
    if of == "f32":
        rounding = ROUNDINGS[next(mode for mode in modes if mode in ROUNDINGS)]
        if to == "f32":
            return rounding
        limits = np.iinfo(dtype_of(to))
        return lambda x: np.nan_to_num(np.clip(rounding(x.astype(np.float64)), limits.min, limits.max)).astype(
            dtype_of(to)
        )
    if to == "f32":
        return lambda x: x.astype(np.float32)
    if to[0] not in "sub":
        raise Fault(f"unknown conversion from {of} to {to}")
    return lambda x: x.astype(dtype_of(to))
