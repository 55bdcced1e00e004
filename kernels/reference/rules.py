"""The inner rules as their papers state them, each in the paper's order and symbols, for float64.

A rule makes a direction N of R (r, b), the projected gradient, or of the whole one; what it keeps of past steps is in a
`State`, its constants are `Settings`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from galore.kernels.reference import operations

# In what the methods' own packages differ from their papers; all of it is `convention: reference`.
HABITS = {
    "ε": "ε added to √v before the bias correction",
    "decay": "decay after the update",
    "α": "G - αPR in place of G - PR",
    "limiter": "growth of the norm limited before the bias correction",
}


@dataclass(frozen=True)
class Settings:
    """Constants of a method: η, α, λ; β₁, β₂, ε of Adam; μ of a momentum; c, a factor on what comes from outside the
    subspace, and the share of ‖G_j‖² that is rounding noise there; the sides of W and whether its rows, the outputs,
    are the columns of G; habits of a package."""

    lr: float
    alpha: float = 1.0
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    mu: float = 0.95
    outside: float = 1.0
    floor: float = 1e-6
    sides: tuple[int, int] = (1, 1)
    turned: bool = False
    habits: frozenset[str] = frozenset()


class State:
    """What is kept of one weight: moments m, v (r, b), row (r,) and column (b,) of Adafactor and RACS, p (b,) of Alice,
    q (m,) of NorMuon, l and axes (r, r) of SOAP, e (a, b) of a momentum outside the subspace, or (a, k) of that of the
    sampled columns, steps t, norm ‖S‖ of a limiter."""

    def __init__(self, *shape: int) -> None:
        self.m = self.v = torch.zeros(shape, dtype=torch.float64)
        self.row, self.column = (torch.zeros(size, dtype=torch.float64) for size in (shape[0], shape[-1]))
        self.p = torch.zeros(shape[-1], dtype=torch.float64)
        self.q: Tensor | float = 0.0
        self.e: Tensor | float = 0.0
        self.sampled = slice(0)
        self.l = self.axes = torch.zeros(shape[0], shape[0], dtype=torch.float64)
        self.t, self.norm = 0, 0.0


Rule = Callable[[Tensor, State, Settings], Tensor]


def adamw(r: Tensor, s: State, h: Settings) -> Tensor:
    """Adam (Kingma & Ba, 1412.6980, algorithm 1): N = m̂ / (√v̂ + ε)."""
    s.t += 1
    convention = "reference" if "ε" in h.habits else "paper"
    n, s.m, s.v = operations.adam(r, s.m, s.v, s.t, h.beta1, h.beta2, h.eps, convention)
    return n


def adafactor(r: Tensor, s: State, h: Settings) -> Tensor:
    """Adafactor (Shazeer & Stern, 1804.04235, algorithm 4): β̂₂ₜ = 1 - t^-0.8 (section 7.2), d = 1, ε₁ = 1e-30.

    N = Û, or with β₁ its moving average. A vector has the whole V̂ (algorithm 5).
    """
    s.t += 1
    beta, squares = 1 - s.t**-0.8, r**2 + 1e-30
    if r.ndim == 2:
        s.row = beta * s.row + (1 - beta) * squares.sum(1)
        s.column = beta * s.column + (1 - beta) * squares.sum(0)
        s.v = torch.outer(s.row, s.column) / s.row.sum()
    else:
        s.v = beta * s.v + (1 - beta) * squares
    u = r / s.v.sqrt()
    u = u / max(1.0, _rms(u))
    s.m = h.beta1 * s.m + (1 - h.beta1) * u
    return s.m


def muon(r: Tensor, s: State, h: Settings) -> Tensor:
    """Muon (Jordan et al. 2024): Nesterov, then Newton-Schulz; 0.2·√max(m, n) of Moonlight (2502.16982, eq. 4)."""
    return orthogonal(momentum(r, s, h), s, h)


def normuon(r: Tensor, s: State, h: Settings) -> Tensor:
    """NorMuon (Li et al., 2510.05491, algorithm 1), with Muon's look-ahead and norm, its β₁ = β₂ = μ, ε = 0."""
    return normed(momentum(r, s, h), s, h)


def sumo(r: Tensor, s: State, h: Settings) -> Tensor:
    """SUMO (2505.24749): U Vᵀ of the moment M = U S Vᵀ, found exactly; scaled as Muon's."""
    s.t += 1
    s.m = h.mu * s.m + (1 - h.mu) * r
    return 0.2 * sqrt(max(h.sides)) * polar(s.m)


def racs(r: Tensor, s: State, h: Settings) -> Tensor:
    """RACS (Gong et al., 2502.07752, algorithm 1), β = β₁, its averages corrected for their start, unlike the paper's.

    From q = 1 five times s = (R∘²)ᵀq / ‖q‖², q = R∘² s / ‖s‖²; N = Q̂^(-1/2) R Ŝ^(-1/2), its growth limited.
    """
    s.t += 1
    q = torch.ones(r.shape[0], dtype=r.dtype)
    for _ in range(5):
        columns = (r**2).mT @ q / q.square().sum()
        q = r**2 @ columns / columns.square().sum()
    s.row = h.beta1 * s.row + (1 - h.beta1) * q
    s.column = h.beta1 * s.column + (1 - h.beta1) * columns
    start = 1 - h.beta1**s.t
    x = torch.nan_to_num(r / torch.outer(s.row / start, s.column / start).sqrt(), nan=0.0)
    return limited(x, s, Settings(h.lr))


def soap(r: Tensor, s: State, h: Settings) -> Tensor:
    """SOAP (Vyas et al., 2409.11321, algorithm 3) of the shorter side: Adam along the axes Q of L, the average of R Rᵀ.

    Q are L's eigenvectors at first, and every ten steps QR(L Q) (algorithm 4); the paper finds them after the step. Of
    a tall R they are those of Rᵀ R, on its right.
    """
    s.t += 1
    tall = r.shape[0] > r.shape[1]
    square = r.mT @ r if tall else r @ r.mT
    s.l = 0.05 * square if s.t == 1 else 0.95 * s.l + 0.05 * square
    if s.t == 1:
        s.axes = torch.linalg.eigh(s.l)[1].flip(1)
    elif s.t % 10 == 0:
        s.axes = torch.linalg.qr(s.l @ s.axes)[0]
    s.m = h.beta1 * s.m + (1 - h.beta1) * r
    s.v = h.beta2 * s.v + (1 - h.beta2) * (r @ s.axes if tall else s.axes.mT @ r) ** 2
    m_hat, v_hat = s.m / (1 - h.beta1**s.t), s.v / (1 - h.beta2**s.t)
    along = (m_hat @ s.axes if tall else s.axes.mT @ m_hat) / (v_hat.sqrt() + h.eps)
    return along @ s.axes.mT if tall else s.axes @ along


def scale(r: Tensor, s: State, h: Settings) -> Tensor:
    """SCALE (Glentis et al., 2506.16659): N_i = R_i / rms(R_i) per output, that is per row of W as (out, in)."""
    s.t += 1
    return torch.nan_to_num(r / r.square().mean(1, keepdim=True).sqrt(), nan=0.0)


def scale_momentum(r: Tensor, s: State, h: Settings) -> Tensor:
    """SCALE at the head: the same of a momentum."""
    s.m = h.mu * s.m + (1 - h.mu) * r
    return scale(s.m, s, h)


# What the papers take from elsewhere.


def limited(x: Tensor, s: State, h: Settings) -> Tensor:
    """The norm-growth limiter of Fira and APOLLO: ‖S_t‖ ≤ γ ‖S_{t-1}‖, γ = 1.01. The first step is free."""
    unit = sqrt(1 - h.beta2**s.t) / (1 - h.beta1**s.t) if "limiter" in h.habits else 1.0
    norm = float(x.norm()) / unit
    factor = 1.01 * s.norm / norm if 0 < 1.01 * s.norm < norm else 1.0
    s.norm = factor * norm
    return factor * x


def newton_schulz(x: Tensor) -> Tensor:
    """Jordan's quintic, five times from X / ‖X‖: singular values near 1 (Muon)."""
    x = x / x.norm()
    for _ in range(5):
        xx = x @ x.mT
        x = 3.4445 * x - 4.7750 * xx @ x + 2.0315 * xx @ xx @ x
    return x


def polar(m: Tensor) -> Tensor:
    """U Vᵀ of M = U S Vᵀ (r, b), r ≤ b, of full rank: (M Mᵀ)^(-1/2) M."""
    values, vectors = torch.linalg.eigh(m @ m.mT)
    factor: Tensor = (vectors / values.sqrt()) @ vectors.mT @ m
    return factor


def momentum(r: Tensor, s: State, h: Settings) -> Tensor:
    """The look-ahead of Nesterov's: (1-μ) R + μ M after M ← μ M + (1-μ) R."""
    s.t, s.m = s.t + 1, h.mu * s.m + (1 - h.mu) * r
    return h.mu * s.m + (1 - h.mu) * r


def orthogonal(x: Tensor, s: State, h: Settings) -> Tensor:
    """Muon's update from a momentum X: 0.2·√max(m, n) O."""
    return 0.2 * sqrt(max(h.sides)) * newton_schulz(x)


def normed(x: Tensor, s: State, h: Settings) -> Tensor:
    """NorMuon's update from a momentum X: Muon's with Ô ‖O‖/‖Ô‖ for O, Ô_i = O_i/√q_i, q ← μ q + (1-μ) (mean O_i²).

    i are rows of W. The norm is that of the authors' code; the paper's is √min(m, n).
    """
    u, along = orthogonal(x, s, h), 0 if h.turned else 1
    s.q = q = h.mu * s.q + (1 - h.mu) * u.square().mean(along)
    level = torch.nan_to_num(u / q.sqrt().unsqueeze(along), nan=0.0)
    return float(u.norm() / level.norm()) * level


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


# By the values of `optim.inner` in a recipe.
RULES: dict[str, Rule] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "muon": muon,
    "normuon": normuon,
    "sumo": sumo,
    "racs": racs,
    "soap": soap,
    "scale": scale,
    "scale-momentum": scale_momentum,
}
FROM_MOMENTUM: dict[Rule, Rule] = {muon: orthogonal, normuon: normed}
