"""Device code: one tile of a product, its operands as they are or in 8 or 4 bits, and the kernels that store it."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.memory import read


@triton.jit
def tile_of(program, M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """(row, column) of a program's tile: GROUP rows of tiles go together and share operands in the L2 cache."""
    columns = tl.cdiv(N, BN)
    first = program // (GROUP * columns) * GROUP
    rows = tl.minimum(tl.cdiv(M, BM) - first, GROUP)
    within = program % (GROUP * columns)
    return first + within % rows, within // rows


@triton.jit
def read_operand(X, ABSMAX, offset, mask, BITS: tl.constexpr, DTYPE: tl.constexpr):
    """Elements of a matrix at `offset`, in DTYPE; 8 and 4 BITS as of kernels/ops/compressed.py, 0 as it is."""
    if BITS == 0:
        value = read(X + offset, mask)
    elif BITS == 8:
        largest = read(ABSMAX + offset // 128, mask).to(tl.float32)
        value = (read(X + offset, mask).to(tl.float32) * tl.div_rn(largest, 127.0)).to(DTYPE)
    else:
        largest = read(ABSMAX + offset // 128, mask).to(tl.float32)
        code = ((read(X + offset // 2, mask).to(tl.int32) >> ((offset & 1) * 4)) & 15 ^ 8) - 8
        value = (code.to(tl.float32) * tl.div_rn(largest, 7.0)).to(DTYPE)
    return value


@triton.jit
def product_tile(
    A, A_ABSMAX, B, B_ABSMAX, rm, rn, first, last, M, N, sam, sak, sbk, sbn,
    A_BITS: tl.constexpr, B_BITS: tl.constexpr, DTYPE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """fp32 (BM, BN) = A[rm, first:last] B[first:last, rn], operands multiplied in DTYPE with fp32 sums.

    fp32 operands go through the tensor cores as three tf32 products, which keep 21 bits of each.
    """
    rk = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(first, last, BK):
        k = start + rk
        if EVEN:
            a_mask = None
            b_mask = None
        else:
            a_mask = (rm < M)[:, None] & (k < last)[None, :]
            b_mask = (k < last)[:, None] & (rn < N)[None, :]
        a = read_operand(A, A_ABSMAX, rm[:, None] * sam + k[None, :] * sak, a_mask, A_BITS, DTYPE)
        b = read_operand(B, B_ABSMAX, k[:, None] * sbk + rn[None, :] * sbn, b_mask, B_BITS, DTYPE)
        total = tl.dot(a, b, total, input_precision="tf32x3")
    return total


@triton.jit
def product_kernel(
    OUT, A, A_ABSMAX, B, B_ABSMAX, M, N, K, sam, sak, sbk, sbn, per_split,
    A_BITS: tl.constexpr, B_BITS: tl.constexpr, DTYPE: tl.constexpr, ACCUMULATE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """OUT (splits, M, N) = A (M, K) B (K, N) over each split's part of K; ACCUMULATE adds to what OUT holds."""
    row, column = tile_of(tl.program_id(0), M, N, BM, BN, GROUP)
    split = tl.program_id(1)
    rm, rn = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN)
    first = split * per_split
    total = product_tile(
        A, A_ABSMAX, B, B_ABSMAX, rm, rn, first, tl.minimum(first + per_split, K), M, N, sam, sak, sbk, sbn,
        A_BITS, B_BITS, DTYPE, BM, BN, BK, EVEN,
    )  # fmt: skip
    offset = split * M * N + rm[:, None] * N + rn[None, :]
    mask = None if EVEN else (rm < M)[:, None] & (rn < N)[None, :]
    if ACCUMULATE:
        total += read(OUT + offset, mask).to(tl.float32)
    tl.store(OUT + offset, total.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def reduce_kernel(OUT, PARTS, count, SPLIT: tl.constexpr, ACCUMULATE: tl.constexpr, BLOCK: tl.constexpr):
    """OUT (count,) = sum of PARTS (SPLIT, count), in that order; ACCUMULATE adds it to what OUT holds."""
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < count
    total = read(PARTS + offset, mask)
    for part in tl.static_range(1, SPLIT):
        total += read(PARTS + part * count + offset, mask)
    if ACCUMULATE:
        total += read(OUT + offset, mask).to(tl.float32)
    tl.store(OUT + offset, total.to(OUT.dtype.element_ty), mask=mask)
