"""Device code: optimizer states in 8 bits, bitsandbytes' dynamic map and e4m3, 256 numbers to an absmax."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.memory import read


@triton.jit
def absolute_maximum(x):
    """max |x| over each row; the maximum of the bits as integers, so that nan and inf pass through."""
    magnitude = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(magnitude, axis=1).to(tl.float32, bitcast=True)


@triton.jit
def at_least(x, least):
    """max(x, least), but of NaN NaN: `tl.maximum` drops it."""
    return tl.where(x < least, least, x)


@triton.jit
def _guess(y, FIRST: tl.constexpr):
    """Code of y ≥ 0 counted from zero's, right to ±1; FIRST values are in the lowest decade, twice as many in the next.

    Decade i holds the means of n = FIRST·2ⁱ equal parts of [0.1, 1]·10^(i-6), from code n - FIRST + 1 on.
    """
    slope = tl.full(y.shape, FIRST / 0.9 * 1e6, tl.float32)
    parts = tl.full(y.shape, FIRST * 1.0, tl.float32)
    for i in tl.static_range(1, 7):
        above = y > 10.0 ** (i - 7)
        slope = tl.where(above, FIRST * 2**i / 0.9 * 10.0 ** (6 - i), slope)
        parts = tl.where(above, FIRST * 2.0**i, parts)
    place = tl.floor(y * slope - parts * (1.0 / 9.0))
    place = tl.minimum(tl.where(place >= 0.0, place, 0.0), parts - 1.0)  # of nan, 0
    return (parts - FIRST + 1.0 + place).to(tl.int32)


@triton.jit
def dynamic_code(x, bounds, SIGNED: tl.constexpr):
    """Nearest code of x, at most 1 in magnitude, as int32; of two as near the lower one.

    `bounds` (257,): code c stands for (bounds[c], bounds[c+1]]. Exact, since the guess is right to ±1.
    """
    if SIGNED:
        guess = _guess(tl.abs(x), 1)
        code = tl.where(x < 0, 127 - guess, 127 + guess)
    else:
        code = _guess(x, 2)
    upper = tl.load(bounds + code + 1)
    lower = tl.load(bounds + code)
    return code + (x > upper).to(tl.int32) - (x <= lower).to(tl.int32)


@triton.jit
def read_dynamic(codes, offset, mask, absmax, table):
    """fp32 values; `absmax` one number per row of the tile, `table` (256,) the map."""
    code = read(codes + offset, mask).to(tl.int32)
    return tl.load(table + code) * absmax[:, None]


@triton.jit
def read_e4m3(codes, offset, mask, absmax):
    """fp32 values of e4m3 codes, 448 of which stand for absmax."""
    code = read(codes + offset, mask).to(tl.float8e4nv, bitcast=True)
    return code.to(tl.float32) * tl.div_rn(absmax, 448.0)[:, None]


@triton.jit
def write_dynamic(codes, offset, mask, absmax, block, block_mask, bounds, value, SIGNED: tl.constexpr):
    """Quantize the rows of `value` (rows, 256) to the dynamic map."""
    largest = absolute_maximum(value)
    scaled = tl.div_rn(value, tl.maximum(largest, 1.1754944e-38)[:, None])
    tl.store(codes + offset, dynamic_code(scaled, bounds, SIGNED).to(tl.uint8), mask=mask)
    tl.store(absmax + block, largest, mask=block_mask)


@triton.jit
def write_e4m3(codes, offset, mask, absmax, block, block_mask, value):
    """Quantize the rows of `value` (rows, 256) to e4m3."""
    largest = absolute_maximum(value)
    scale = tl.maximum(tl.div_rn(largest, 448.0), 1.1754944e-38)
    code = tl.div_rn(value, scale[:, None]).to(tl.float8e4nv)
    tl.store(codes + offset, code.to(tl.uint8, bitcast=True), mask=mask)
    tl.store(absmax + block, largest, mask=block_mask)
