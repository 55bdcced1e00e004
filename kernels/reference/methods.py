"""The methods as their papers state them, each in the paper's order and symbols, for float64; nothing here is fast.

A weight W and its gradient G are oriented (a, b), a the projected side. P (a, r) comes from outside: a paper defines a
subspace, not its coordinates. An inner rule makes a direction N of R = PᵀG, or of G itself at full rank; a method makes
of them the update U; then W ← (1 - ηλ) W - ηα U. Any rule goes with any method.
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
    """Constants of a method: η, α, λ; β₁, β₂, ε of Adam; μ of a momentum; the longer side of W; habits of a package."""

    lr: float
    alpha: float = 1.0
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    mu: float = 0.95
    longer: int = 1
    habits: frozenset[str] = frozenset()


class State:
    """What is kept of one weight: moments m, v (r, b), Adafactor's row (r,) and column (b,), steps t, norm ‖S‖."""

    def __init__(self, *shape: int) -> None:
        self.m = self.v = torch.zeros(shape, dtype=torch.float64)
        self.row, self.column = (torch.zeros(size, dtype=torch.float64) for size in (shape[0], shape[-1]))
        self.t, self.norm = 0, 0.0


Rule = Callable[[Tensor, State, Settings], Tensor]
Method = Callable[[Tensor, Tensor, State, Settings, Rule], Tensor]


def step(w: Tensor, g: Tensor, p: Tensor | None, s: State, h: Settings, method: Method, rule: Rule) -> Tensor:
    """W ← (1 - ηλ) W - ηα U, decay decoupled (Loshchilov & Hutter, 1711.05101); without P, U is the rule's N of G."""
    u = rule(g, s, h) if p is None else method(g, p, s, h, rule)
    kept = 1 - h.lr * h.decay
    return kept * (w - h.lr * h.alpha * u) if "decay" in h.habits else kept * w - h.lr * h.alpha * u


# Inner rules: R (r, b) → N (r, b); the state takes the step.


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
    s.t += 1
    s.m = h.mu * s.m + (1 - h.mu) * r
    x = h.mu * s.m + (1 - h.mu) * r
    return 0.2 * sqrt(h.longer) * newton_schulz(x)


def sumo(r: Tensor, s: State, h: Settings) -> Tensor:
    """SUMO (2505.24749): U Vᵀ of the moment M = U S Vᵀ, found exactly; scaled as Muon's."""
    s.t += 1
    s.m = h.mu * s.m + (1 - h.mu) * r
    return 0.2 * sqrt(h.longer) * polar(s.m)


# Methods: G (a, b) and P (a, r) → U (a, b).


def galore(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """GaLore (Zhao et al., 2403.03507, algorithm 2): U = P N. DCT subspaces (2505.17967) differ in P alone."""
    r = p.mT @ g
    n = rule(r, s, h)
    return p @ n


def fira(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """Fira (Chen et al., 2410.01623): U = P N + S, S = φ∘(G - P R) limited, φⱼ = ‖Nⱼ‖/‖Rⱼ‖ per column."""
    r = p.mT @ g
    n = rule(r, s, h)
    inside = h.alpha if "α" in h.habits else 1.0
    return p @ n + limited(_ratio(n, r) * (g - inside * p @ r), s, h) / inside


def apollo(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """APOLLO (Zhu et al., 2412.05270, algorithm 1): U = s∘G limited, sⱼ = ‖Nⱼ‖/‖Rⱼ‖ per column; P ~ N(0, 1/r)."""
    r = p.mT @ g
    n = rule(r, s, h)
    return limited(_ratio(n, r) * g, s, h)


def apollo_mini(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """APOLLO-Mini (2412.05270): U = √128 · s G limited, one s = ‖N‖/‖R‖ for the matrix; r = 1."""
    r = p.mT @ g
    n = rule(r, s, h)
    return sqrt(128) * limited(n.norm() / r.norm() * g, s, h)


def frugal(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """FRUGAL (Zmushko et al., 2411.07837) with signSGD as the rule without a state: U = P N + sign(G - P R).

    At full rank nothing is left over but rounding errors, whose sign would not be small.
    """
    r = p.mT @ g
    n = rule(r, s, h)
    return p @ n if p.shape[0] == p.shape[1] else p @ n + torch.sign(g - p @ r)


def lora(w: Tensor, a: Tensor, b: Tensor, alpha: float, r: int) -> Tensor:
    """LoRA (Hu et al., 2106.09685, eq. 3): W + (α/r) B A; a restart of ReLoRA (2307.05695) makes it the next W."""
    return w + alpha / r * b @ a


# What becomes of the state when P does: C = P_newᵀ P_old (r_new, r_old).


def keep(s: State, c: Tensor, h: Settings) -> None:
    """GaLore: as they are, coordinates of another basis."""


def reset(s: State, c: Tensor, h: Settings) -> None:
    """FRUGAL: from nothing, the steps of the bias correction too."""
    s.m, s.v, s.row, s.column, s.t = 0 * s.m, 0 * s.v, 0 * s.row, 0 * s.column, 0


def rotate(s: State, c: Tensor, h: Settings) -> None:
    """LDAdam (Robert et al., 2410.16103, projection-aware update): M' = C M, V' = (1-β₂ᵗ) |C∘² (V̂ - M̂²) + (C M̂)²|.

    The other rules alike: a momentum as M, Adafactor's row means by C∘², its column means as they are.
    """
    first, second = 1 - h.beta1**s.t, 1 - h.beta2**s.t
    m_hat, v_hat = s.m / first, s.v / second
    s.v = second * (c**2 @ (v_hat - m_hat**2) + (c @ m_hat) ** 2).abs()
    s.m = c @ s.m
    s.row = c**2 @ s.row


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


def _ratio(n: Tensor, r: Tensor) -> Tensor:
    """‖Nⱼ‖/‖Rⱼ‖ (b,), 0 in a column without a gradient."""
    return torch.nan_to_num(n.norm(dim=0) / r.norm(dim=0), nan=0.0, posinf=0.0)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


# By the values that `optim.inner`, `optim.residual` and `optim.transport` have in a recipe.
RULES: dict[str, Rule] = {"adamw": adamw, "adafactor": adafactor, "muon": muon, "sumo": sumo}
METHODS: dict[str, Method] = {
    "none": galore,
    "fira": fira,
    "apollo": apollo,
    "apollo-mini": apollo_mini,
    "frugal": frugal,
}
TRANSPORTS: dict[str, Callable[[State, Tensor, Settings], None]] = {"keep": keep, "reset": reset, "rotate": rotate}
