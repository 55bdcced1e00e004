"""Device code: W ← decay·W + alpha·P N in place, the product never stored, for every way a weight is kept."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.codes import absolute_maximum
from galore.kernels.triton.jit.memory import read
from galore.kernels.triton.jit.product import product_tile, tile_of
from galore.kernels.triton.jit.rounding import (
    int8_codes,
    int8_scale,
    random_bits,
    read_compensated,
    split_compensated,
    stochastic_bf16,
)


@triton.jit
def _updated(value, product, alpha, decay, AFTER: tl.constexpr):
    return (value + alpha * product) * decay if AFTER else value * decay + alpha * product


@triton.jit(do_not_specialize=["low", "high"])
def lift_kernel(
    W, C, A, A_ABSMAX, B, B_ABSMAX, M, N, K, sam, sak, sbk, sbn, alpha, decay, low, high,
    A_BITS: tl.constexpr, B_BITS: tl.constexpr, DTYPE: tl.constexpr, AFTER: tl.constexpr, STOCHASTIC: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """W (M, N) fp32 or bf16, with compensation C of its shape or None; A (M, K) B (K, N) is P N as W is stored."""
    row, column = tile_of(tl.program_id(0), M, N, BM, BN, GROUP)
    rm, rn = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN)
    product = product_tile(
        A, A_ABSMAX, B, B_ABSMAX, rm, rn, 0, K, M, N, sam, sak, sbk, sbn,
        A_BITS, B_BITS, DTYPE, BM, BN, BK, EVEN,
    )  # fmt: skip
    offset = rm[:, None] * N + rn[None, :]
    mask = None if EVEN else (rm < M)[:, None] & (rn < N)[None, :]
    w = read(W + offset, mask)
    bits = random_bits(offset, low, high) if STOCHASTIC else 0
    if C is not None:
        kept: tl.constexpr = C.dtype.element_ty.primitive_bitwidth
        value = read_compensated(w, read(C + offset, mask))
        value = _updated(value, product, alpha, decay, AFTER)
        w, c = split_compensated(value, bits, kept, STOCHASTIC)
        tl.store(C + offset, c.to(C.dtype.element_ty), mask=mask)
        tl.store(W + offset, w, mask=mask)
    else:
        value = _updated(w.to(tl.float32), product, alpha, decay, AFTER)
        if STOCHASTIC and W.dtype.element_ty == tl.bfloat16:
            tl.store(W + offset, stochastic_bf16(value, bits), mask=mask)
        else:
            tl.store(W + offset, value.to(W.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["low", "high"])
def lift_int8_kernel(
    W, S, A, A_ABSMAX, B, B_ABSMAX, M, N, K, sam, sak, sbk, sbn, alpha, decay, low, high,
    A_BITS: tl.constexpr, B_BITS: tl.constexpr, DTYPE: tl.constexpr, AFTER: tl.constexpr, STOCHASTIC: tl.constexpr,
    SIZE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """W (M, N) int8 codes and S (M, N / SIZE) bf16 scales; a tile is SIZE ≤ BN columns wide, one group of each row."""
    groups = N // SIZE
    row, group = tile_of(tl.program_id(0), M, groups, BM, 1, GROUP)
    rm, within = row * BM + tl.arange(0, BM), tl.arange(0, BN)
    rn = group * SIZE + within
    end = (group + 1) * SIZE
    product = product_tile(
        A, A_ABSMAX, B, B_ABSMAX, rm, rn, 0, K, M, end, sam, sak, sbk, sbn,
        A_BITS, B_BITS, DTYPE, BM, BN, BK, EVEN,
    )  # fmt: skip
    offset, place = rm[:, None] * N + rn[None, :], rm * groups + group
    mask = None if EVEN else (rm < M)[:, None] & (within < SIZE)[None, :]
    rows = None if EVEN else rm < M
    old = read(S + place, rows).to(tl.float32)
    codes = read(W + offset, mask).to(tl.float32)
    value = _updated(codes * old[:, None], product, alpha, decay, AFTER)
    scale = int8_scale(absolute_maximum(value), old)
    bits = random_bits(offset, low, high) if STOCHASTIC else 0
    tl.store(W + offset, int8_codes(value, scale[:, None], bits, STOCHASTIC), mask=mask)
    tl.store(S + place, scale.to(tl.bfloat16), mask=rows)
