"""Plans of storing numbers in 8 or 4 bits and reading them back: optimizer states, projectors, weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.storage.layout import group_size
from galore.kernels.triton.jit.quantize import (
    compress_kernel,
    dequantize_kernel,
    dequantize_weight_kernel,
    expand_kernel,
    quantize_kernel,
    quantize_weight_kernel,
)
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.states import SIGNED_BOUNDS, SIGNED_MAP, STATES, UNSIGNED_BOUNDS, UNSIGNED_MAP, tables

BLOCKS = 8  # of 256 elements, to a program
GROUPS = 16  # of 128 elements, to a program
FLAT = 1024  # elements to a program
WEIGHT_ROWS = 16  # groups of a weight, to a program


def quantize_plan(codes: Tensor, absmax: Tensor, value: Tensor, signed: bool) -> list[Launch]:
    """codes (k,) uint8 (dynamic map) or float8_e4m3fn, absmax (⌈k/256⌉,) fp32 ← value (k,) fp32."""
    kind, raw = _kind(codes)
    count = value.numel()
    bounds = tables(value.device)[SIGNED_BOUNDS if signed else UNSIGNED_BOUNDS :] if kind == "dynamic" else None
    arguments = {"CODES": raw, "ABSMAX": absmax, "VALUE": value, "BOUNDS": bounds, "count": count}
    constants = {"STATE": STATES[kind], "SIGNED": signed, "BLOCKS": BLOCKS}
    return [_flat(quantize_kernel, arguments, constants, blocks(count, 256 * BLOCKS))]


def dequantize_plan(out: Tensor, codes: Tensor, absmax: Tensor, signed: bool) -> list[Launch]:
    """out (k,) fp32 ← what `quantize_plan` stored."""
    kind, raw = _kind(codes)
    count = out.numel()
    table = tables(out.device)[SIGNED_MAP if signed else UNSIGNED_MAP :] if kind == "dynamic" else None
    arguments = {"OUT": out, "CODES": raw, "ABSMAX": absmax, "TABLE": table, "count": count}
    return [_flat(dequantize_kernel, arguments, {"STATE": STATES[kind], "BLOCKS": BLOCKS}, blocks(count, 256 * BLOCKS))]


def compress_plan(codes: Tensor, absmax: Tensor, p: Tensor) -> list[Launch]:
    """codes int8 (k,) or uint8 (⌈k/2⌉,), absmax fp16 (⌈k/128⌉,) ← P of k elements, as `compressed.compress`."""
    arguments = {"CODES": codes, "ABSMAX": absmax, "P": p, "count": p.numel()}
    constants = {"BITS": _bits(codes), "GROUPS": GROUPS}
    return [_flat(compress_kernel, arguments, constants, blocks(p.numel(), 128 * GROUPS))]


def expand_plan(out: Tensor, codes: Tensor, absmax: Tensor) -> list[Launch]:
    """out, any floating dtype ← what `compress_plan` stored."""
    arguments = {"OUT": out, "CODES": codes, "ABSMAX": absmax, "count": out.numel()}
    return [_flat(expand_kernel, arguments, {"BITS": _bits(codes), "BLOCK": FLAT}, blocks(out.numel(), FLAT))]


def quantize_weight_plan(codes: Tensor, scales: Tensor, w: Tensor) -> list[Launch]:
    """codes (m, n) int8, scales (m, n / group) bf16 ← w (m, n), as `int8.quantize`."""
    size = group_size(w.shape[1])
    groups = w.shape[1] // size
    arguments = {"CODES": codes, "S": scales, "W": w, "rows": w.shape[0], "groups": groups}
    constants = {"SIZE": size, "WIDTH": 1 << (size - 1).bit_length(), "ROWS": WEIGHT_ROWS}
    return [_flat(quantize_weight_kernel, arguments, constants, blocks(w.shape[0] * groups, WEIGHT_ROWS))]


def dequantize_weight_plan(out: Tensor, codes: Tensor, scales: Tensor) -> list[Launch]:
    """out (m, n), any floating dtype ← s q."""
    arguments = {"OUT": out, "CODES": codes, "S": scales, "count": out.numel()}
    constants = {"SIZE": group_size(codes.shape[1]), "BLOCK": FLAT}
    return [_flat(dequantize_weight_kernel, arguments, constants, blocks(out.numel(), FLAT))]


def _flat(kernel: object, arguments: dict[str, Any], constants: dict[str, int], programs: int) -> Launch:
    touched = sum(x.nbytes for x in arguments.values() if isinstance(x, Tensor))
    return Launch(kernel, (programs, 1), {**arguments}, constants, warps=4, bytes=touched)


def _kind(codes: Tensor) -> tuple[str, Tensor]:
    return ("dynamic", codes) if codes.dtype == torch.uint8 else ("e4m3", codes.view(torch.uint8))


def _bits(codes: Tensor) -> int:
    return 8 if codes.dtype == torch.int8 else 4
