"""Device code: random bits of an element, and fp32 sums rounded into bf16, compensated bf16 and int8 groups."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.codes import at_least


@triton.jit
def random_bits(offset, low, high):
    """uint32 in [0, 65535] of the element at `offset` under the key (low, high): `reference.random_bits`."""
    x = offset.to(tl.uint32) ^ low.to(tl.uint32)
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return ((x ^ high.to(tl.uint32)) * 0x9E3779B1) >> 16


@triton.jit
def plain_bits(value):
    """uint32 of fp32; of the NaN of NVIDIA's arithmetic, 0x7FFFFFFF, 0x7FC00000: what is added would make it -0.0."""
    return tl.minimum(value.to(tl.int32, bitcast=True), 0x7FC00000).to(tl.uint32, bitcast=True)


@triton.jit
def stochastic_bf16(value, bits):
    """fp32 → bf16, up with the probability of the part that is cut off."""
    raw = plain_bits(value) + bits
    return (raw >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def read_compensated(w, c):
    """V in fp32 of a bf16 weight and its int16 or int8 compensation, see kernels/storage/rounding.py."""
    raw = w.to(tl.uint16, bitcast=True).to(tl.int32) << 16
    raw += c.to(tl.int32) << (16 - c.dtype.primitive_bitwidth)
    return raw.to(tl.float32, bitcast=True)


@triton.jit
def split_compensated(value, bits, WIDTH: tl.constexpr, STOCHASTIC: tl.constexpr):
    """V in fp32 → (bf16 weight, compensation of WIDTH bits in int32); `bits` round what 8 bits cannot keep."""
    raw = plain_bits(value)
    if WIDTH == 8:
        raw += (bits & 0xFF) if STOCHASTIC else 128
    raw += 1 << 15
    w = (raw >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    half: tl.constexpr = 1 << (WIDTH - 1)
    kept = (raw >> (16 - WIDTH)) & ((1 << WIDTH) - 1)
    return w, kept.to(tl.int32) - half


@triton.jit
def int8_scale(largest, old):
    """Scale of a group whose largest magnitude is `largest`: the old one while it fits, see kernels/ops/int8.py."""
    kept = (largest <= 127 * old) & (largest >= 63.5 * old)
    headroom: tl.constexpr = 1.125 * (1 + 2**-7) / 127
    fresh = at_least(largest * headroom, 1e-30).to(tl.bfloat16).to(tl.float32)
    return tl.where(kept, old, fresh)


@triton.jit
def int8_codes(value, scale, bits, STOCHASTIC: tl.constexpr):
    """⌊V / s + u⌋ in [-127, 127] as int8, u = 1/2 or from `bits`."""
    u = (bits.to(tl.float32) + 0.5) * (2.0**-16) if STOCHASTIC else 0.5
    codes = tl.floor(tl.div_rn(value, scale) + u)
    return tl.minimum(tl.maximum(codes, -127.0), 127.0).to(tl.int8)
