"""Device code: matrices to 8-bit codes, int8 or e4m3, and products of two such with their scales."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.codes import absolute_maximum, at_least
from galore.kernels.triton.jit.memory import read
from galore.kernels.triton.jit.product import tile_of
from galore.kernels.triton.jit.rounding import random_bits

INT8 = tl.constexpr(0)
E4M3 = tl.constexpr(1)
INTEGERS = tl.constexpr(12582912.0)  # 1.5·2²³: the last place of fp32 numbers of that size is 1
BITS = tl.constexpr(0x4B400000)  # of that number


@triton.jit
def encoded(value, bits, FORMAT: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Code of a scaled value: to nearest, or up by chance with the probability of what is cut off."""
    if FORMAT == E4M3:  # a multiple of its octave's step first: the compiler's cast would go over fp16, and round twice
        exponent = tl.maximum((value.to(tl.int32, bitcast=True) >> 23) & 255, 121)  # below 2⁻⁶ steps are even
        step = ((exponent - 3) << 23).to(tl.float32, bitcast=True)
        value = tl.div_rn(value, step)
    up = (bits.to(tl.float32) + 0.5) * (2.0**-16) if STOCHASTIC else 0.0
    value = tl.floor(value + up) if STOCHASTIC else (value + INTEGERS) - INTEGERS
    if FORMAT == INT8:
        code = tl.minimum(tl.maximum(value, -127.0), 127.0).to(tl.int8)
    else:
        code = tl.minimum(tl.maximum(value * step, -448.0), 448.0).to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    return code


@triton.jit(do_not_specialize=["low", "high"])
def encode_kernel(
    OUT, X, S, M, N, padded, sxm, sxn, som, low, high,
    FORMAT: tl.constexpr, STOCHASTIC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """OUT (M, padded) ← codes of X (M, N) / S (M,), row by row, and 0 behind them."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    value = read(X + rows[:, None] * sxm + columns[None, :] * sxn, mask).to(tl.float32)
    scale = tl.load(S + rows, mask=rows < M, other=1.0)
    bits = random_bits(rows[:, None] * N + columns[None, :], low, high) if STOCHASTIC else 0
    code = encoded(tl.div_rn(value, scale[:, None]), bits, FORMAT, STOCHASTIC)
    there = (rows < M)[:, None] & (columns < padded)[None, :]
    tl.store(OUT + rows[:, None] * som + columns[None, :], code, mask=there)


@triton.jit(do_not_specialize=["low", "high"])
def regroup_kernel(
    OUT, OUT_S, CODES, S, M, N, padded, groups, scm, scn, som, low, high,
    SIZE: tl.constexpr, TRANSPOSED: tl.constexpr, STOCHASTIC: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """OUT (M, padded), OUT_S (⌈N / WIDTH⌉, M) ← int8 codes, SIZE of a row to a scale of S (rows, groups).

    TRANSPOSED: OUT's rows are the columns of CODES.
    """
    group = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = group * WIDTH + tl.arange(0, WIDTH)
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    code = read(CODES + rows[:, None] * scm + columns[None, :] * scn, mask).to(tl.float32)
    if TRANSPOSED:
        place = columns[None, :] * groups + rows[:, None] // SIZE
    else:
        place = rows[:, None] * groups + columns[None, :] // SIZE
    value = code * read(S + place, mask).to(tl.float32)
    scale = at_least(tl.div_rn(absolute_maximum(value), 127.0), 1e-30)
    bits = random_bits(rows[:, None] * N + columns[None, :], low, high) if STOCHASTIC else 0
    fresh = encoded(tl.div_rn(value, scale[:, None]), bits, INT8, STOCHASTIC)
    there = (rows < M)[:, None] & (columns < padded)[None, :]
    tl.store(OUT + rows[:, None] * som + columns[None, :], fresh, mask=there)
    tl.store(OUT_S + group * M + rows, scale, mask=rows < M)


@triton.jit
def _read_codes(X, offset, mask, FORMAT: tl.constexpr):
    code = read(X + offset, mask)
    return code if FORMAT == INT8 else code.to(tl.float8e4nv, bitcast=True)


@triton.jit
def coded_product_kernel(
    OUT, A, A_S, B, B_S, M, N, K, sam, sbn, ssn, ssg,
    FORMAT: tl.constexpr, SIZE: tl.constexpr, WHOLE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """OUT (M, N) = A_S (M,) · Σ over groups of B_S · (A (M, K) B (N, K)ᵀ): sums within a group exact, over groups fp32.

    B_S at n·ssn + g·ssg. WHOLE: one group a row; else int8, and SIZE ≤ BK codes to a group, BK a power of two.
    K is padded: there A is 0.
    """
    row, column = tile_of(tl.program_id(0), M, N, BM, BN, GROUP)
    rm, rn, within = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN), tl.arange(0, BK)
    n_mask = None if EVEN else rn < N
    total = tl.zeros((BM, BN), tl.float32)
    sums = tl.zeros((BM, BN), tl.int32)
    step: tl.constexpr = BK if WHOLE else SIZE
    for part in range(0, tl.cdiv(K, step)):
        k = part * step + within
        if EVEN:
            a_mask = None
            b_mask = None
        else:
            inside = (k < K) & (within < step)
            a_mask = (rm < M)[:, None] & inside[None, :]
            b_mask = inside[:, None] & (rn < N)[None, :]
        if not WHOLE:
            scale = read(B_S + rn * ssn + part * ssg, n_mask).to(tl.float32)
        a = _read_codes(A, rm[:, None] * sam + k[None, :], a_mask, FORMAT)
        b = _read_codes(B, k[:, None] + rn[None, :] * sbn, b_mask, FORMAT)
        if WHOLE:
            if FORMAT == INT8:
                sums = tl.dot(a, b, sums, out_dtype=tl.int32)
            else:
                total = tl.dot(a, b, total, max_num_imprecise_acc=BK)
        else:
            # |Σ| < 2²²: added to these bits it is the fp32 number INTEGERS + Σ, which no conversion has to make
            bits = tl.dot(a, b, tl.full((BM, BN), BITS, tl.int32), out_dtype=tl.int32)
            total += (bits.to(tl.float32, bitcast=True) - INTEGERS) * scale[None, :]
    if WHOLE:
        if FORMAT == INT8:
            total = sums.to(tl.float32)
        total *= read(B_S + rn * ssn, n_mask).to(tl.float32)[None, :]
    total *= read(A_S + rm, None if EVEN else rm < M)[:, None]
    mask = None if EVEN else (rm < M)[:, None] & (rn < N)[None, :]
    tl.store(OUT + rm[:, None] * N + rn[None, :], total.to(OUT.dtype.element_ty), mask=mask)
