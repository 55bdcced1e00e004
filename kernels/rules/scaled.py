"""Gradients scaled by their rows and columns: RACS, and SCALE's outputs of one norm; next to no state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from galore.kernels.rules.orthogonalize import momentum_
from galore.kernels.rules.power import leading_power
from galore.kernels.rules.residual import growth_limit_

ITERATIONS = 5  # of the fixed point, as in RACS's paper


@dataclass(frozen=True)
class RacsRule:
    """RACS (Gong et al. 2025, arXiv 2502.07752, algorithm 1), its averages corrected for their start, as Adam's are.

    Args:
        beta: of the averages of both scales.
    """

    beta: float = 0.9

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the fp32 state of a matrix (a, b), zeros at first."""
        return {"row": shape[:1], "column": shape[1:], "norm": ()}

    def direction_(self, grad: Tensor, state: Mapping[str, Tensor], *, step: int, out: Tensor | None = None) -> Tensor:
        """-G̃ for the fp32 matrix `grad` (a, b), its growth limited as Fira's; the state updated in place.

            s ← (G∘²)ᵀ q / ‖q‖²,  q ← G∘² s / ‖s‖²  from q = 1;   G̃ = Q̂^(-1/2) G Ŝ^(-1/2)

        Args:
            step: steps taken including this one, from 1.
            out: fp32, where the direction goes; may be `grad` itself.
        """
        q, s = row_and_column(grad)
        state["row"].lerp_(q, 1 - self.beta)
        state["column"].lerp_(s, 1 - self.beta)
        whole = 1 - math.pow(self.beta, step)
        scaled = torch.mul(grad, inverse_root(state["row"] / whole)[:, None], out=out)
        scaled.mul_(inverse_root(state["column"] / whole))
        return scaled.mul_(growth_limit_(torch.linalg.vector_norm(scaled), state["norm"])).neg_()


@dataclass(frozen=True)
class OutputRule:
    """SCALE (Glentis et al. 2025, arXiv 2506.16659): every output's row of (out, in) divided by its root mean square.

    Args:
        beta: of a momentum, which SCALE keeps for the head alone; None keeps none.
    """

    beta: float | None = None

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the fp32 state, zeros at first."""
        return {} if self.beta is None else {"exp_avg": shape}

    def direction_(
        self, grad: Tensor, state: Mapping[str, Tensor], *, step: int = 1, out: Tensor | None = None
    ) -> Tensor:
        """-M_i √b / ‖M_i‖ per row of the fp32 matrix `grad` (a, b), M its momentum or itself; 0 where that is 0."""
        moment = grad if self.beta is None else momentum_(state["exp_avg"], grad, self.beta, nesterov=False)
        rows = torch.div(moment, leading_power(moment, dim=1), out=out)
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows.mul_(torch.where(norms > 0, -(grad.shape[1] ** 0.5) / norms, 0.0))


def row_and_column(grad: Tensor) -> tuple[Tensor, Tensor]:
    """q (a,) and s (b,) in fp32, q sᵀ the nearest of its kind to G∘² of `grad` (a, b); zeros for zeros.

    Its largest element is divided out before squares are taken.
    """
    top = grad.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    squares = (grad / top).square_()
    q, s = squares.new_ones(grad.shape[0]), squares.new_zeros(grad.shape[1])
    for _ in range(ITERATIONS):
        s = (squares.mT @ q) / _squared(q)
        q = (squares @ s) / _squared(s)
    return q, s * top.square()


def inverse_root(x: Tensor) -> Tensor:
    """x^(-1/2), 0 where x is 0."""
    return torch.where(x > 0, x.rsqrt(), 0.0)


def _squared(x: Tensor) -> Tensor:
    return torch.dot(x, x).clamp_min(torch.finfo(torch.float32).tiny)
