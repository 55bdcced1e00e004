"""What happens to Adam's moments when the basis of a subspace changes: kept, reset, or rotated into the new one."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Transport = Literal["keep", "reset", "rotate"]
MOMENTS = ("exp_avg", "exp_avg_sq")


class Transported(NamedTuple):
    """Moments in the new coordinates.

    `changed` names those that are new tensors, which 8-bit storage has to quantize again. `restart` says that they hold
    no past step: Adam's bias correction has to count from 0 again, or its next direction is (1-β₁)/√(1-β₂) = 3.2 times
    too long.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    changed: tuple[str, ...]
    restart: bool


def change_of_basis(p_new: Tensor, p_old: Tensor) -> Tensor:
    """C (r_new, r_old) = P_newᵀ P_old in fp32; P (a, r)."""
    return p_new.float().mT @ p_old.float()


def transport(
    kind: Transport,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    c: Tensor,
    *,
    step: int,
    beta1: float,
    beta2: float,
) -> Transported:
    """The moments (r_old, b) of `step` past steps, as they go on after P_old has become P_new.

    Args:
        kind: `keep` leaves them, as GaLore does; `reset` gives zeros, as FRUGAL does; `rotate` as LDAdam does.
        c: (r_new, r_old), see `change_of_basis`.

    Raises:
        ValueError: `keep` where the rank changes, since no old coordinate has a place in the new basis.
    """
    new, old = c.shape
    if kind == "rotate":
        rotated = rotate(exp_avg, exp_avg_sq, c, step=step, beta1=beta1, beta2=beta2)
        return Transported(*rotated, MOMENTS, False)
    if kind == "reset":
        zeros = [moment.new_zeros(new, moment.shape[1]) for moment in (exp_avg, exp_avg_sq)]
        return Transported(zeros[0], zeros[1], MOMENTS, True)
    if new != old:
        raise ValueError(f"moments of rank {old} cannot be kept at rank {new}; rotate or reset them")
    return Transported(exp_avg, exp_avg_sq, (), False)


def rotate(
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    c: Tensor,
    *,
    step: int,
    beta1: float,
    beta2: float,
) -> tuple[Tensor, Tensor]:
    """Moments of the rotated gradients C g (Robert et al. 2025, LDAdam, arXiv 2410.16103, projection-aware update).

        M̂ = M / (1 - β₁ᵗ),  V̂ = V / (1 - β₂ᵗ);   M' = C M,   V' = (1 - β₂ᵗ) |C∘² (V̂ - M̂²) + (C M̂)²|

    as if the coordinates of g were uncorrelated with mean M̂ and variance V̂ - M̂². That may be negative, as M̂ and V̂
    average over different spans; |·| keeps V' ≥ 0 and a signed permutation exact.

    Args:
        exp_avg, exp_avg_sq: (r_old, b) without bias correction, or any of their columns: columns do not mix.
        c: (r_new, r_old), any ranks. What lies outside the new subspace is lost, new dimensions start at 0.
        step: t, steps that the moments have seen.
    """
    c, m = c.float(), exp_avg.float()
    rotated = c @ m
    if step == 0:
        return rotated, torch.zeros_like(rotated)
    first, second = 1 - beta1**step, 1 - beta2**step
    variance = (exp_avg_sq.float() / second).addcmul_(m, m, value=-1 / first**2)
    square = (c.square() @ variance).addcmul_(rotated, rotated, value=1 / first**2)
    return rotated, square.abs_().mul_(second)
