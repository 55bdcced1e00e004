"""Adafactor on fp32 tensors: a second moment of a matrix kept as its row means and column means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Of the paper: the exponent of β̂₂ₜ = 1 - t^-0.8 (section 7.2), d, the largest root mean square of a direction (section
# 6), and ε₁, added to the squared gradient.
EXPONENT, CLIP, EPS = -0.8, 1.0, 1e-30


@dataclass(frozen=True)
class AdafactorRule:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235, algorithms 4 and 5, without relative step sizes).

    Args:
        beta1: of a first moment of the clipped direction, not bias-corrected; None keeps none, as in the paper.
    """

    beta1: float | None = None

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the fp32 state, zeros at first: `row` (a,) and `column` (b,) of a matrix (a, b).

        Any other shape keeps an unfactored `exp_avg_sq`; with `beta1` there is an `exp_avg` of the whole shape too.
        """
        shapes = {"exp_avg_sq": shape}
        if len(shape) == 2:
            shapes = {"row": shape[:1], "column": shape[1:]}
        return shapes if self.beta1 is None else {**shapes, "exp_avg": shape}

    def direction_(self, grad: Tensor, state: Mapping[str, Tensor], *, step: int, out: Tensor | None = None) -> Tensor:
        """-Û (with `beta1` its moving average), the state updated in place; a matrix is factored, other shapes are not.

            R ← β̂R + (1 - β̂) mean_columns(G² + ε₁),  C ← β̂C + (1 - β̂) mean_rows(G² + ε₁),  V̂ = R C / mean(R)
            U = G / √V̂,  Û = U / max(1, RMS(U) / d),  M ← β₁M + (1 - β₁)Û

        Args:
            grad: fp32, the gradient (a, b), or R (r, b) = PᵀG of a projected one.
            state: fp32 tensors of `state_shapes(grad.shape)`.
            step: steps taken including this one, from 1.
            out: fp32, where the direction goes; may be `grad` itself, which is then overwritten.
        """
        keep = 1.0 - math.pow(step, EXPONENT)  # 0 at the first step: the zeros that the state starts with never count
        if grad.ndim == 2:
            direction = self._factored_(grad, state["row"], state["column"], keep, out)
        else:
            state["exp_avg_sq"].mul_(keep).addcmul_(grad, grad, value=1 - keep).add_((1 - keep) * EPS)
            direction = torch.mul(grad, state["exp_avg_sq"].rsqrt(), out=out)
        direction.div_((root_mean_square(direction) / CLIP).clamp_min(1.0))
        if self.beta1 is None:
            return direction.neg_()
        state["exp_avg"].lerp_(direction, 1 - self.beta1)
        return torch.neg(state["exp_avg"], out=direction)

    def _factored_(self, grad: Tensor, row: Tensor, column: Tensor, keep: float, out: Tensor | None) -> Tensor:
        for mean, dim in ((row, 1), (column, 0)):
            squares = torch.linalg.vector_norm(grad, dim=dim).square_().div_(grad.shape[dim])
            mean.lerp_(squares.add_(EPS), 1 - keep)
        scaled = torch.mul(grad, (row / row.mean()).rsqrt_()[:, None], out=out)
        return scaled.mul_(column.rsqrt())


def root_mean_square(x: Tensor) -> Tensor:
    """RMS of all elements, a scalar tensor."""
    mean_root: Tensor = torch.linalg.vector_norm(x) / math.sqrt(max(1, x.numel()))
    return mean_root
