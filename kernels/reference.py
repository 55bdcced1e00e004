"""The specification: each operation as a short statement of its equation, exact in the dtype it is given.

Every test of a faster kernel compares with these functions in float64. Matrices are *oriented*: a weight or gradient
is seen as (a, b) with a ≤ b, so that the projector P (a, r) always multiplies from the left ("side" is a transpose).
"""

from __future__ import annotations

import torch
from torch import Tensor


def orient(x: Tensor) -> Tensor:
    """(m, n) → (a, b) view with a ≤ b. A square matrix is transposed, as the official GaLore code projects it."""
    return x.mT if x.shape[-2] >= x.shape[-1] else x


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
