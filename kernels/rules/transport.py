"""Adam's moments in another basis of their subspace: the change of basis, and the moments rotated by it."""

from __future__ import annotations

import torch
from torch import Tensor


def change_of_basis(p_new: Tensor, p_old: Tensor) -> Tensor:
    """C (r_new, r_old) = P_newᵀ P_old in fp32; P (a, r)."""
    return p_new.float().mT @ p_old.float()


def rotate(
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    c: Tensor,
    *,
    step: int,
    beta1: float,
    beta2: float,
    outside: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Moments of the rotated gradients C g (Robert et al. 2025, LDAdam, arXiv 2410.16103, projection-aware update).

        M̂ = M / (1 - β₁ᵗ),  V̂ = V / (1 - β₂ᵗ);   M' = C M,   V' = (1 - β₂ᵗ) |C∘² (V̂ - M̂²) + (C M̂)²|

    as if the coordinates of g were uncorrelated with mean M̂ and variance V̂ - M̂². That may be negative, as M̂ and V̂
    average over different spans; |·| keeps V' ≥ 0 and a signed permutation exact.

    Args:
        exp_avg, exp_avg_sq: (r_old, b) without bias correction, or any of their columns: columns do not mix.
        c: (r_new, r_old), any ranks. What lies outside the new subspace is lost, new dimensions start at 0.
        step: t, steps that the moments have seen.
        outside: v (b,), mean square of a gradient's coordinates outside the old basis: V' then takes from it what of a
            new direction the old basis had not, (1 - Σ_k C_ik²) v_j. Without it a new direction starts from 0, and
            Adam's first step along it is (1 - β₁)/√(1 - β₂) long.
    """
    c, m = c.float(), exp_avg.float()
    rotated = c @ m
    if step == 0:
        return rotated, torch.zeros_like(rotated)
    first, second = 1 - beta1**step, 1 - beta2**step
    variance = (exp_avg_sq.float() / second).addcmul_(m, m, value=-1 / first**2)
    square = (c.square() @ variance).addcmul_(rotated, rotated, value=1 / first**2)
    square.abs_()
    if outside is not None:
        square.addcmul_((1 - c.square().sum(1, keepdim=True)).clamp_min_(0.0), outside)
    return rotated, square.mul_(second)
