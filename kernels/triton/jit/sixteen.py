"""Device code: a matrix to 4 bits and back, its rows and columns brought to one size, see kernels/storage/sixteen.py.

No sum depends on which program is done first: squares of columns are added up by chunks of rows, and these in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.memory import read

TINY = tl.constexpr(1.1754944e-38)  # instead of a division by zero


@triton.jit
def row_sizes_kernel(R, X, M, N, sxm, sxn, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """R (M,) ← √mean X² of rows of X (M, N); what is squared are ratios to the largest number that a lane has met."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    at = X + row[:, None] * sxm + column[None, :] * sxn
    largest = tl.full((ROWS, COLUMNS), TINY, tl.float32)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, N, COLUMNS):
        x = read(at + first * sxn, (row < M)[:, None] & (first + column < N)[None, :])
        larger = tl.maximum(largest, tl.abs(x))
        shrunk, ratio = tl.div_rn(largest, larger), tl.div_rn(x, larger)
        squares = squares * (shrunk * shrunk) + ratio * ratio
        largest = larger
    top = tl.max(largest, axis=1)
    shrunk = tl.div_rn(largest, top[:, None])
    mean = tl.div_rn(tl.sum(squares * (shrunk * shrunk), axis=1), N * 1.0)
    tl.store(R + row, tl.sqrt_rn(mean) * top, mask=row < M)


@triton.jit
def column_squares_kernel(PARTIAL, X, R, M, N, each, sxm, sxn, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row p of PARTIAL (chunks, N) ← Σ (X / R)² over the `each` rows of chunk p."""
    chunk, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, each, ROWS):
        within = first + tl.arange(0, ROWS)
        row = chunk * each + within
        there = (row < M) & (within < each)
        x = read(X + row[:, None] * sxm + column[None, :] * sxn, there[:, None] & (column < N)[None, :])
        ratio = tl.div_rn(x, tl.maximum(read(R + row, there), TINY)[:, None])
        squares += ratio * ratio
    tl.store(PARTIAL + chunk * N + column, tl.sum(squares, axis=0), mask=column < N)


@triton.jit
def column_sizes_kernel(C, PARTIAL, chunks, M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """C (N,) ← √ of the sums of PARTIAL (chunks, N) over M."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, chunks, ROWS):
        row = first + tl.arange(0, ROWS)
        squares += read(PARTIAL + row[:, None] * N + column[None, :], (row < chunks)[:, None] & (column < N)[None, :])
    tl.store(C + column, tl.sqrt_rn(tl.div_rn(tl.sum(squares, axis=0), M * 1.0)), mask=column < N)


@triton.jit
def _nearest(x, BOUNDS):
    """How many of the fifteen BOUNDS are below x, halving what is left four times; of nan, none."""
    code = tl.zeros(x.shape, tl.int32)
    for halving in tl.static_range(4):
        code += tl.where(x > tl.load(BOUNDS + code + ((8 >> halving) - 1)), 8 >> halving, 0)
    return code


@triton.jit
def to_sixteen_kernel(CODES, X, R, C, BOUNDS, M, N, sxm, sxn, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """CODES (M, N / 2) ← values nearest to X / R / C, the earlier of two in the lower half of a byte; N is even."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = (row < M)[:, None] & (column < N)[None, :]
    x = read(X + row[:, None] * sxm + column[None, :] * sxn, here)
    inverse = tl.div_rn(1.0, tl.maximum(read(C + column, column < N), TINY))
    code = _nearest(tl.div_rn(x, tl.maximum(read(R + row, row < M), TINY)[:, None]) * inverse[None, :], BOUNDS)
    lower, upper = tl.split(tl.reshape(code, (ROWS, COLUMNS // 2, 2)))
    pair = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    inside = (row < M)[:, None] & (pair < N // 2)[None, :]
    tl.store(CODES + row[:, None] * (N // 2) + pair[None, :], (lower | (upper << 4)).to(tl.uint8), mask=inside)


@triton.jit
def from_sixteen_kernel(OUT, CODES, R, C, TABLE, M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """OUT (M, N) ← R C v, v of TABLE (16,) by the codes that `to_sixteen_kernel` stored."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
    inside = (row < M)[:, None] & (pair < N // 2)[None, :]
    code = read(CODES + row[:, None] * (N // 2) + pair[None, :], inside).to(tl.int32)
    value = tl.interleave(tl.load(TABLE + (code & 15)), tl.load(TABLE + (code >> 4)))
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = (row < M)[:, None] & (column < N)[None, :]
    x = value * read(R + row, row < M)[:, None] * read(C + column, column < N)[None, :]
    tl.store(OUT + row[:, None] * N + column[None, :], x, mask=here)
