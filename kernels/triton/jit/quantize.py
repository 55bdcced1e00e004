"""Device code: optimizer states, projectors and weights to 8 or 4 bits and back, on their own."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.adam import DYNAMIC
from galore.kernels.triton.jit.codes import (
    absolute_maximum,
    at_least,
    read_dynamic,
    read_e4m3,
    write_dynamic,
    write_e4m3,
)
from galore.kernels.triton.jit.memory import read
from galore.kernels.triton.jit.product import read_operand


@triton.jit
def quantize_kernel(
    CODES, ABSMAX, VALUE, BOUNDS, count, STATE: tl.constexpr, SIGNED: tl.constexpr, BLOCKS: tl.constexpr
):
    """VALUE (count,) fp32 → one code each and one absmax per 256, in either format of `codes`."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    offset = block[:, None] * 256 + tl.arange(0, 256)[None, :]
    mask, block_mask = offset < count, block * 256 < count
    value = read(VALUE + offset, mask)
    if STATE == DYNAMIC:
        write_dynamic(CODES, offset, mask, ABSMAX, block, block_mask, BOUNDS, value, SIGNED)
    else:
        write_e4m3(CODES, offset, mask, ABSMAX, block, block_mask, value)


@triton.jit
def dequantize_kernel(OUT, CODES, ABSMAX, TABLE, count, STATE: tl.constexpr, BLOCKS: tl.constexpr):
    """OUT (count,) fp32 ← what `quantize_kernel` stored."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    offset = block[:, None] * 256 + tl.arange(0, 256)[None, :]
    mask = offset < count
    absmax = read(ABSMAX + block, block * 256 < count)
    if STATE == DYNAMIC:
        value = read_dynamic(CODES, offset, mask, absmax, TABLE)
    else:
        value = read_e4m3(CODES, offset, mask, absmax)
    tl.store(OUT + offset, value, mask=mask)


@triton.jit
def compress_kernel(CODES, ABSMAX, P, count, BITS: tl.constexpr, GROUPS: tl.constexpr):
    """P (count,), groups of 128 → symmetric codes in 8 or 4 bits and fp16 absmax, see kernels/ops/compressed.py."""
    largest: tl.constexpr = 127 if BITS == 8 else 7
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    offset = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    mask = offset < count
    value = read(P + offset, mask).to(tl.float32)
    absmax = absolute_maximum(value).to(tl.float16)
    scale = tl.maximum(tl.div_rn(absmax.to(tl.float32), largest * 1.0), 1.1754944e-38)
    code = _to_nearest(tl.div_rn(value, scale[:, None]), largest)
    tl.store(ABSMAX + group, absmax, mask=group * 128 < count)
    if BITS == 8:
        tl.store(CODES + offset, code.to(tl.int8), mask=mask)
    else:
        lower, upper = tl.split(tl.reshape(code & 15, (GROUPS, 64, 2)))
        half = group[:, None] * 64 + tl.arange(0, 64)[None, :]
        tl.store(CODES + half, (lower | (upper << 4)).to(tl.uint8), mask=half * 2 < count)


@triton.jit
def _to_nearest(x, LARGEST: tl.constexpr):
    """The integer nearest to x, of two the even one, in [-LARGEST, LARGEST], as int32."""
    x = tl.minimum(tl.maximum(x, -1.0 * LARGEST), 1.0 * LARGEST)
    return ((x + 12582912.0) - 12582912.0).to(tl.int32)  # 1.5·2²³: what is left of a sum of that size are integers


@triton.jit
def expand_kernel(OUT, CODES, ABSMAX, count, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """OUT (count,), any floating dtype ← what `compress_kernel` stored."""
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < count
    tl.store(OUT + offset, read_operand(CODES, ABSMAX, offset, mask, BITS, OUT.dtype.element_ty), mask=mask)


@triton.jit
def quantize_weight_kernel(
    CODES, S, W, rows, groups, SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """W, rows·groups groups of SIZE → int8 codes to the nearest and bf16 scales, as kernels/ops/int8.py keeps them."""
    group = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    offset = group[:, None] * SIZE + tl.arange(0, WIDTH)[None, :]
    there = group < rows * groups
    mask = there[:, None] & (tl.arange(0, WIDTH) < SIZE)[None, :]
    value = read(W + offset, mask).to(tl.float32)
    fits: tl.constexpr = (1 + 2**-7) / 127
    scale = at_least(absolute_maximum(value) * fits, 1e-30).to(tl.bfloat16)
    code = _to_nearest(tl.div_rn(value, scale.to(tl.float32)[:, None]), 127)
    tl.store(CODES + offset, code.to(tl.int8), mask=mask)
    tl.store(S + group, scale, mask=there)


@triton.jit
def dequantize_weight_kernel(OUT, CODES, S, count, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """OUT (count,) = s q, rounded once; SIZE codes share a scale."""
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < count
    scale = read(S + offset // SIZE, mask).to(tl.float32)
    value = read(CODES + offset, mask).to(tl.float32) * scale
    tl.store(OUT + offset, value.to(OUT.dtype.element_ty), mask=mask)
