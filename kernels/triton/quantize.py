"""Plans of storing numbers in 8 or 4 bits and reading them back: optimizer states, projectors, weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.storage.layout import group_size
from galore.kernels.storage.sixteen import bounds, values
from galore.kernels.triton.jit.quantize import (
    compress_kernel,
    dequantize_kernel,
    dequantize_weight_kernel,
    expand_kernel,
    quantize_kernel,
    quantize_weight_kernel,
)
from galore.kernels.triton.jit.sixteen import (
    column_sizes_kernel,
    column_squares_kernel,
    from_sixteen_kernel,
    row_sizes_kernel,
    to_sixteen_kernel,
)
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.states import SIGNED_BOUNDS, SIGNED_MAP, STATES, UNSIGNED_BOUNDS, UNSIGNED_MAP, tables

BLOCKS = 8  # of 256 elements, to a program
GROUPS = 16  # of 128 elements, to a program
FLAT = 1024  # elements to a program
WEIGHT_ROWS = 16  # groups of a weight, to a program
# Rows and columns of a tile of momenta: where rows are worked on, where columns are, and where a column lies together.
LONG, HIGH, ACROSS = (4, 512), (16, 64), (64, 32)


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


def to_sixteen_plan(codes: Tensor, rows: Tensor, columns: Tensor, x: Tensor, partial: Tensor) -> list[Launch]:
    """codes (m, n / 2) uint8, rows (m,) and columns (n,) fp32 ← x (m, n) fp32, any strides, as `sixteen.quantize_`.

    `partial` (chunks, n) fp32 is overwritten: columns' squares of so many chunks of rows.
    """
    (m, n), chunks = x.shape, len(partial)
    given: dict[str, Any] = {"X": x, "R": rows, "M": m, "N": n, "sxm": x.stride(0), "sxn": x.stride(1)}
    along = x.stride(1) == 1
    long, high = (LONG, HIGH) if along else (ACROSS, ACROSS)
    added = {"C": columns, "PARTIAL": partial, "chunks": chunks, "M": m, "N": n}
    coded = given | {"CODES": codes, "C": columns, "BOUNDS": bounds(x.device)}
    return [
        _tiled(row_sizes_kernel, given, long, (blocks(m, long[0]), 1)),
        _tiled(
            column_squares_kernel,
            given | {"PARTIAL": partial, "each": blocks(m, chunks)},
            high,
            (chunks, blocks(n, high[1])),
        ),
        _tiled(column_sizes_kernel, added, HIGH, (blocks(n, HIGH[1]), 1)),
        _tiled(to_sixteen_kernel, coded, long, (blocks(m, long[0]), blocks(n, long[1]))),
    ]


def from_sixteen_plan(out: Tensor, codes: Tensor, rows: Tensor, columns: Tensor) -> list[Launch]:
    """out (m, n) fp32 ← what `to_sixteen_plan` stored."""
    m, n = out.shape
    arguments = {"OUT": out, "CODES": codes, "R": rows, "C": columns, "TABLE": values(out.device), "M": m, "N": n}
    return [_tiled(from_sixteen_kernel, arguments, LONG, (blocks(m, LONG[0]), blocks(n, LONG[1])))]


def _tiled(kernel: object, arguments: dict[str, Any], tile: tuple[int, int], grid: tuple[int, int]) -> Launch:
    constants = {"ROWS": tile[0], "COLUMNS": tile[1]}
    return Launch(kernel, grid, arguments, constants, warps=4, bytes=_touched(arguments))


def _flat(kernel: object, arguments: dict[str, Any], constants: dict[str, int], programs: int) -> Launch:
    return Launch(kernel, (programs, 1), {**arguments}, constants, warps=4, bytes=_touched(arguments))


def _touched(arguments: dict[str, Any]) -> int:
    return sum(x.nbytes for x in arguments.values() if isinstance(x, Tensor))


def _kind(codes: Tensor) -> tuple[str, Tensor]:
    return ("dynamic", codes) if codes.dtype == torch.uint8 else ("e4m3", codes.view(torch.uint8))


def _bits(codes: Tensor) -> int:
    return 8 if codes.dtype == torch.int8 else 4
