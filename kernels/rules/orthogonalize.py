"""Orthogonalized momentum: Newton-Schulz as in Muon, NorMuon's rows, the exact polar factor, the scale of updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from galore.kernels.decompose import Basis, first_finite
from galore.kernels.device import device_type
from galore.kernels.rules.power import leading_power

QUINTIC = (3.4445, -4.7750, 2.0315)  # of Muon: the steepest start at 0 that still ends near 1
_TINY = 1e-30  # instead of a division by zero


def orthogonalize(m: Tensor, steps: int = 5) -> Tensor:
    """m (a, b) → U S' Vᵀ of m = U S Vᵀ with S' near 1, by X ← aX + (bA + cA²)X, A = XXᵀ (Jordan et al. 2024, Muon).

    Five steps bring singular values above about 1 % of ‖m‖_F to [0.68, 1.14] and leave smaller ones below. The result
    has the dtype of m; the iteration runs in bf16 on CUDA and in fp32 elsewhere, from X = m / ‖m‖_F, whatever the size
    of m.
    """
    a, b, c = QUINTIC
    tall = m.shape[0] > m.shape[1]
    x = (m.mT if tall else m).float()
    x = x / leading_power(x)
    x.div_(torch.linalg.vector_norm(x).clamp_min_(_TINY))
    x = x.bfloat16() if device_type(m) == "cuda" else x
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(m.dtype)


def polar_factor(m: Tensor) -> Basis:
    """The nearest matrix to m (a, b) with orthonormal rows or columns, U Vᵀ, in fp32; by eigh in float64 where SVD
    fails, and by Newton-Schulz, which is not exact, where that does.

    Directions that m does not have (singular values within rounding of 0) stay 0: the polar factor of a rank-deficient
    matrix is a partial isometry, and that of zeros is zeros.
    """
    m = m.float()
    return first_finite(lambda: _polar_by_svd(m), lambda: _polar_by_eigh(m), lambda: orthogonalize(m))


def _polar_by_svd(m: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    held = (s > s[:1] * (max(m.shape) * torch.finfo(s.dtype).eps)).to(s.dtype)
    exact: Tensor = (u * held) @ vh
    return exact


def _polar_by_eigh(m: Tensor) -> Tensor:
    """(MMᵀ)^(-1/2) M on the smaller side."""
    x = (m.mT if m.shape[0] > m.shape[1] else m).double()
    squares, u = torch.linalg.eigh(x @ x.mT)
    held = squares > squares[-1:] * (max(m.shape) * torch.finfo(squares.dtype).eps)
    root = torch.where(held, squares.clamp_min(torch.finfo(squares.dtype).tiny).rsqrt(), 0.0)
    polar: Tensor = (u * root) @ (u.mT @ x)
    return (polar.mT if m.shape[0] > m.shape[1] else polar).float()


def momentum_(buffer: Tensor, grad: Tensor, beta: float = 0.95, nesterov: bool = True) -> Tensor:
    """B ← βB + (1 - β)G in place → (1 - β)G + βB for Nesterov, else B: the form of Jordan's Muon, scale aside."""
    buffer.lerp_(grad, 1 - beta)
    return grad.lerp(buffer, beta) if nesterov else buffer


def level_rows_(o: Tensor, squares: Tensor, beta: float) -> Tensor:
    """O (m, n) fp32 in place → Ô ‖O‖_F / ‖Ô‖_F, Ô_i = O_i / √q_i: rows of one size over time (arXiv 2510.05491).

    The norm is that of O, as in NorMuon's code; algorithm 1 of its paper makes it √min(m, n). Rows of zeros stay so.
    `squares` q (m,) fp32, zeros at first, takes the step: q ← βq + (1 - β) (mean of O_i²). Its start needs no
    correction, which would be one factor on all of Ô.
    """
    norm = torch.linalg.vector_norm(o)
    squares.lerp_(o.square().mean(1), 1 - beta)
    o.mul_(torch.where(squares > 0, squares.rsqrt(), 0.0)[:, None])
    return o.mul_(norm / torch.linalg.vector_norm(o).clamp_min(_TINY))


def rms_scale(rows: int, columns: int) -> float:
    """0.2·√max(m, n): an orthogonal (m, n) update gets AdamW's RMS, 0.2 (Moonlight, arXiv 2502.16982, eq. 4).

    The RMS is exact for a whole matrix; P O with O (r, b) orthogonal has √(r / a) of it.
    """
    return 0.2 * math.sqrt(max(rows, columns))


@dataclass(frozen=True)
class OrthogonalRule:
    """Momentum, then orthogonalization: Muon's, or `exact` in the subspace as SUMO does (arXiv 2505.24749).

    SUMO-like: its moment is a plain average (`nesterov` off), transported by C = P_newᵀP_old at a refresh. `fell_back`
    is called where the exact decomposition failed and another way was taken.
    """

    beta: float = 0.95
    nesterov: bool = True
    exact: bool = False
    steps: int = 5
    fell_back: Callable[[], None] = lambda: None

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the fp32 state, zeros at first."""
        return {"exp_avg": shape}

    def direction_(
        self, grad: Tensor, state: Mapping[str, Tensor], *, step: int = 1, out: Tensor | None = None
    ) -> Tensor:
        """-O for the fp32 matrix `grad` (a, b), the momentum updated in place; `step` counts for nothing.

        No scale factor is in it: multiply by `rms_scale` of the weight's shape. `out` may be `grad`.
        """
        moment = momentum_(state["exp_avg"], grad, self.beta, self.nesterov)
        return torch.neg(self.update(moment, state), out=out)

    def update(self, moment: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """O of an fp32 momentum (a, b), a new tensor."""
        return self._polar(moment) if self.exact else orthogonalize(moment, self.steps)

    def _polar(self, moment: Tensor) -> Tensor:
        factor, fell_back = polar_factor(moment)
        if fell_back:
            self.fell_back()
        return factor


@dataclass(frozen=True)
class NormedRule(OrthogonalRule):
    """NorMuon (Li et al. 2025, arXiv 2510.05491): Muon with rows brought to one size by an average of their squares.

    Both averages have one `beta`, as in the paper; the momentum looks ahead, as Muon's.
    """

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": shape, "row_squares": shape[:1]}

    def update(self, moment: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return level_rows_(super().update(moment, state), state["row_squares"], self.beta)
