"""Device code: RMSNorm, SwiGLU and rotary positions, in fp32 arithmetic with one rounding, forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl

from galore.kernels.triton.jit.memory import read


@triton.jit
def rms_norm_kernel(OUT, R, X, W, rows, columns, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """OUT (rows, columns) ← W ∘ r X, R (rows,) fp32 ← r = 1 / √(mean(X²) + eps)."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row[:, None] * columns + column[None, :]
    x = read(X + offset, here).to(tl.float32)
    gain = read(W + column, column < columns).to(tl.float32)
    r = tl.div_rn(1.0, tl.sqrt_rn(tl.div_rn(tl.sum(x * x, axis=1), columns.to(tl.float32)) + eps))
    tl.store(R + row, r, mask=row < rows)
    tl.store(OUT + offset, (x * r[:, None] * gain[None, :]).to(OUT.dtype.element_ty), mask=here)


@triton.jit
def rms_norm_backward_kernel(
    DX, DW, DY, X, W, R, rows, columns, each, GAIN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """DX ← r (W ∘ DY - n · mean(W ∘ DY ∘ n)), n = r X.

    With GAIN row p of DW (programs, columns) ← Σ DY ∘ n over the `each` rows of program p.
    """
    column = tl.arange(0, WIDTH)
    inside = column < columns
    gain = read(W + column, inside).to(tl.float32)
    size = columns.to(tl.float32)
    found = tl.zeros((WIDTH,), tl.float32)
    first = tl.program_id(0) * each
    for at in range(0, each, ROWS):
        row = first + at + tl.arange(0, ROWS)
        there = (row < rows) & (at + tl.arange(0, ROWS) < each)
        here = there[:, None] & inside[None, :]
        offset = row[:, None] * columns + column[None, :]
        r = read(R + row, there)[:, None]
        n = read(X + offset, here).to(tl.float32) * r
        g = read(DY + offset, here).to(tl.float32)
        if GAIN:
            found += tl.sum(g * n, axis=0)
        g = g * gain[None, :]
        mean = tl.div_rn(tl.sum(g * n, axis=1), size)[:, None]
        tl.store(DX + offset, ((g - n * mean) * r).to(DX.dtype.element_ty), mask=here)
    if GAIN:
        tl.store(DW + tl.program_id(0) * columns + column, found, mask=inside)


@triton.jit
def swiglu_kernel(OUT, GATE, UP, count, BLOCK: tl.constexpr):
    """OUT (count,) ← g σ(g) u."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    g, u = read(GATE + at, here).to(tl.float32), read(UP + at, here).to(tl.float32)
    tl.store(OUT + at, (tl.div_rn(g, 1.0 + tl.exp(-g)) * u).to(OUT.dtype.element_ty), mask=here)


@triton.jit
def swiglu_backward_kernel(DG, DU, DY, GATE, UP, count, BLOCK: tl.constexpr):
    """DU ← DY g σ(g),   DG ← DY u σ(g) (1 + g (1 - σ(g)))."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    g, u = read(GATE + at, here).to(tl.float32), read(UP + at, here).to(tl.float32)
    dy = read(DY + at, here).to(tl.float32)
    s = tl.div_rn(1.0, 1.0 + tl.exp(-g))
    tl.store(DU + at, (dy * g * s).to(DU.dtype.element_ty), mask=here)
    tl.store(DG + at, (dy * u * s * (1.0 + g * (1.0 - s))).to(DG.dtype.element_ty), mask=here)


@triton.jit
def rotary_kernel(
    OUT, X, COS, SIN, tokens, heads, sxb, sxt, sxh, sob, sot, soh, scb,
    BACKWARD: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """OUT ← X (B, T, H, 2·HALF) turned: x₁ c₁ - x₂ s₁ and x₂ c₂ + x₁ s₂; BACKWARD: its transpose.

    COS and SIN (B or 1, T, 2·HALF), scb elements to a row of tokens, 0 for one that all share.
    """
    token = tl.program_id(0)
    b, t = token // tokens, token % tokens
    head, place = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, WIDTH)
    inside = place < HALF
    here = (head < heads)[:, None] & inside[None, :]
    angle = b * scb + t * (2 * HALF) + place
    c1, c2 = read(COS + angle, inside).to(tl.float32), read(COS + angle + HALF, inside).to(tl.float32)
    s1, s2 = read(SIN + angle, inside).to(tl.float32), read(SIN + angle + HALF, inside).to(tl.float32)
    at = b * sxb + t * sxt + head[:, None] * sxh + place[None, :]
    x1, x2 = read(X + at, here).to(tl.float32), read(X + at + HALF, here).to(tl.float32)
    if BACKWARD:
        y1 = x1 * c1[None, :] + x2 * s2[None, :]
        y2 = x2 * c2[None, :] - x1 * s1[None, :]
    else:
        y1 = x1 * c1[None, :] - x2 * s1[None, :]
        y2 = x2 * c2[None, :] + x1 * s2[None, :]
    to = b * sob + t * sot + head[:, None] * soh + place[None, :]
    tl.store(OUT + to, y1.to(OUT.dtype.element_ty), mask=here)
    tl.store(OUT + to + HALF, y2.to(OUT.dtype.element_ty), mask=here)


@triton.jit
def softmax_kernel(Z, T, LOSS, LSE, columns, z_loss, BLOCK: tl.constexpr):
    """Row by row Z (rows, columns) ← softmax(Z) (1 + 2 z_loss · LSE) - onehot(T), LOSS ← LSE - Z[T], LSE ← log Σ exp Z.

    A target that is no column makes its row's loss and gradient nan.
    """
    row = tl.program_id(0)
    Z += row * columns
    lane = tl.arange(0, BLOCK)
    target = tl.load(T + row)
    of_target = tl.load(Z + target, mask=(target >= 0) & (target < columns), other=float("nan")).to(tl.float32)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, columns, BLOCK):
        here = start + lane < columns
        most = tl.maximum(most, tl.load(Z + start + lane, mask=here, other=float("-inf")).to(tl.float32))
    top = tl.max(most, axis=0)
    found = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        here = start + lane < columns
        found += tl.exp(tl.load(Z + start + lane, mask=here, other=float("-inf")).to(tl.float32) - top)
    total = tl.sum(found, axis=0)
    loss = tl.log(total) + (top - of_target)
    lse = loss + of_target
    tl.store(LOSS + row, loss)
    tl.store(LSE + row, lse)
    share = tl.div_rn(1.0 + 2.0 * z_loss * lse, total)
    for start in range(0, columns, BLOCK):
        column = start + lane
        here = column < columns
        p = tl.exp(tl.load(Z + column, mask=here, other=float("-inf")).to(tl.float32) - top) * share
        tl.store(Z + column, tl.where(column == target, p - 1.0, p).to(Z.dtype.element_ty), mask=here)
