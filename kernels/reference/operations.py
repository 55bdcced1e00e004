"""The specification: each operation as a short statement of its equation, exact in the dtype it is given.

Every test of a faster kernel compares with these functions in float64. Matrices are *oriented*: a weight or gradient
is seen as (a, b), a ≤ b unless a side is asked for, so that the projector P (a, r) always multiplies from the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from galore.kernels.family import Side


def is_transposed(shape: Sequence[int], side: Side = "auto") -> bool:
    """Whether a matrix stored as `shape` (m, n) is seen transposed: P (n, r) on its right, not P (m, r) on its left.

    `auto` projects the smaller side, and a square matrix from the right, as the official GaLore code does.
    """
    return side == "right" or (side == "auto" and shape[-2] >= shape[-1])


def orient(x: Tensor, transposed: bool | None = None) -> Tensor:
    """(m, n) → (a, b), a view; None goes by the smaller side."""
    return x.mT if (is_transposed(x.shape) if transposed is None else transposed) else x


def svd_basis(g: Tensor, rank: int) -> Tensor:
    """P (a, r): the leading left singular vectors of the oriented gradient (GaLore, arXiv 2403.03507, eq. 12-13)."""
    u, _, _ = torch.linalg.svd(g, full_matrices=False)
    basis: Tensor = u[:, :rank]
    return basis


def range_basis(g: Tensor, omega: Tensor) -> Tensor:
    """P (a, r): an orthonormal basis of the range of G Ω (Halko, Martinsson, Tropp 2011, algorithm 4.1)."""
    q, _ = torch.linalg.qr(g @ omega)
    basis: Tensor = q
    return basis


def switched_basis(p: Tensor, g: Tensor, omega: Tensor) -> Tensor:
    """[U₁ U₂] (a, r), U₁ the l leading left singular vectors of P PᵀG, U₂ a basis of (I - U₁U₁ᵀ) Ω, Ω (a, r - l).

    Alice's switching (arXiv 2502.07752, section 5), its complement drawn by a Gaussian.
    """
    u = torch.linalg.svd(p @ p.mT @ g).U[:, : p.shape[1] - omega.shape[1]]
    return torch.cat([u, torch.linalg.qr(omega - u @ u.mT @ omega).Q], dim=1)


def dct_basis(a: int) -> Tensor:
    """D (a, a), orthonormal: D[i, j] = √(2/a) cos(π (2i + 1) j / 2a), the column j = 0 divided by √2 (DCT-II)."""
    i, j = torch.arange(a, dtype=torch.float64)[:, None], torch.arange(a, dtype=torch.float64)
    d: Tensor = (2 / a) ** 0.5 * torch.cos(math.pi * (2 * i + 1) * j / (2 * a))
    d[:, 0] /= 2**0.5
    return d


def gram_error(p: Tensor) -> Tensor:
    """‖PᵀP - I‖_F / √r () of P (a, r): 0 for orthonormal columns."""
    p = p.double()
    error: Tensor = torch.linalg.matrix_norm(p.mT @ p - torch.eye(p.shape[1], dtype=p.dtype))
    return error.div(p.shape[1] ** 0.5)


def project(p: Tensor, g: Tensor) -> Tensor:
    """R (r, b) = Pᵀ G (GaLore, eq. 2)."""
    return p.mT @ g


def adam(
    g: Tensor, m: Tensor, v: Tensor, step: int, beta1: float, beta2: float, eps: float, convention: str = "paper"
) -> tuple[Tensor, Tensor, Tensor]:
    """One Adam step (Kingma & Ba 2015, algorithm 1) → (direction, m, v); `step` counts from 1.

    `paper` adds ε to √v̂; `reference` adds it to √v before bias correction, as the official GaLore code does.
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    c1, c2 = 1 - beta1**step, 1 - beta2**step
    if convention == "reference":
        return m / (v.sqrt() + eps) * (c2**0.5 / c1), m, v
    return (m / c1) / ((v / c2).sqrt() + eps), m, v


def lift_update(
    w: Tensor, p: Tensor, n: Tensor, lr: float, scale: float, weight_decay: float, convention: str = "paper"
) -> Tensor:
    """W ← (1 - ηλ) W - η α P N on the oriented weight (GaLore, algorithm 2, with decoupled decay).

    `reference` decays after the update: W ← (1 - ηλ) (W - η α P N).
    """
    update = lr * scale * (p @ n)
    if convention == "reference":
        return (w - update) * (1 - lr * weight_decay)
    return w * (1 - lr * weight_decay) - update


def random_bits(offset: Tensor, low: int, high: int) -> Tensor:
    """Numbers in [0, 65535] for the elements at `offset` (int64) of a tensor whose key is (low, high).

    h ← e ⊕ low; h ← lowbias32(h); the upper half of (h ⊕ high)·0x9E3779B1, all mod 2³². A function of the element and
    the key alone: no rounding depends on how a kernel cuts a matrix into tiles.
    """
    h = (offset ^ low) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return (((h ^ (high & 0xFFFFFFFF)) * 0x9E3779B1) & 0xFFFFFFFF) >> 16


def round_stochastically(value: Tensor, bits: Tensor) -> Tensor:
    """fp32 → bf16: ⌊value / u + bits / 2¹⁶⌋ u with u the last place of bf16, away from 0; E = value."""
    raw = (value.view(torch.int32) + bits.to(torch.int32)) & -(1 << 16)
    return raw.view(torch.float32).bfloat16()


def nearest_code(x: Tensor, values: Tensor) -> Tensor:
    """Index of the value (256, ascending) nearest to x, of two as near the lower (bitsandbytes, arXiv 2110.02861)."""
    return torch.bucketize(x, (values[1:] + values[:-1]) / 2)


def quantize_blocks(x: Tensor, values: Tensor, block: int = 256) -> tuple[Tensor, Tensor]:
    """x (k,) → nearest codes of x / absmax, and absmax of each block."""
    parts = torch.split(x, block)
    absmax = torch.stack([part.abs().max() for part in parts])
    codes = [nearest_code(part / top.clamp_min(1e-45), values) for part, top in zip(parts, absmax, strict=True)]
    return torch.cat(codes).to(torch.uint8), absmax


def quantize_rows_and_columns(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X (m, n) ≈ r c v[q] → codes q (m, n), r (m,) = √mean x² of rows, c (n,) = √mean (x / r)² of columns."""
    rows = x.square().mean(1).sqrt()
    columns = (x / rows[:, None]).square().mean(0).sqrt()
    return nearest_code(x / rows[:, None] / columns, values), rows, columns


def project_factors(p: Tensor, side: Tensor, other: Tensor) -> Tensor:
    """R (r, b) = (s P)ᵀ l = Pᵀ (sᵀ l): the projected gradient of a linear layer from its factors s (B, a), l (B, b)."""
    return (side @ p).mT @ other


def update_int8(
    codes: Tensor, scales: Tensor, update: Tensor, alpha: float, decay: float, u: Tensor | float
) -> tuple[Tensor, Tensor]:
    """One group of an int8 weight: V = decay·s q + alpha·U; q' = ⌊V / s' + u⌋ in [-127, 127], s' = s while V fits it.

    Args:
        codes, update: (groups, size); scales: (groups,); u: uniform in [0, 1), or 1/2 for to nearest.
    """
    value = decay * scales[:, None] * codes + alpha * update
    largest = value.abs().amax(1)
    kept = (largest <= 127 * scales) & (largest >= 63.5 * scales)
    fresh = (largest * (1.125 * (1 + 2**-7) / 127)).clamp_min(1e-30).bfloat16().to(value.dtype)
    scale = torch.where(kept, scales, fresh)
    return (value / scale[:, None] + u).floor().clamp(-127, 127), scale
