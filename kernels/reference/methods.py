"""The methods as their papers state them, each in the paper's order and symbols, for float64; nothing here is fast.

A weight W and its gradient G are oriented (a, b), a the projected side. P (a, r) comes from outside: a paper defines a
subspace, not its coordinates. An inner rule makes a direction N of R = PᵀG, or of G itself at full rank; a method makes
of them the update U; then W ← (1 - ηλ) W - ηα U. Any rule goes with any method.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from galore.kernels.reference.rules import FROM_MOMENTUM, Rule, Settings, State, limited, momentum, newton_schulz

Method = Callable[[Tensor, Tensor, State, Settings, Rule], Tensor]


def step(w: Tensor, g: Tensor, p: Tensor | None, s: State, h: Settings, method: Method, rule: Rule) -> Tensor:
    """W ← (1 - ηλ) W - ηα U, decay decoupled (Loshchilov & Hutter, 1711.05101); without P, U is the rule's N of G."""
    u = rule(g, s, h) if p is None else method(g, p, s, h, rule)
    kept = 1 - h.lr * h.decay
    return kept * (w - h.lr * h.alpha * u) if "decay" in h.habits else kept * w - h.lr * h.alpha * u


# Methods: G (a, b) and P (a, r) → U (a, b).


def galore(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """GaLore (Zhao et al., 2403.03507, algorithm 2): U = P N. DCT subspaces (2505.17967) differ in P alone."""
    r = p.mT @ g
    n = rule(r, s, h)
    return p @ n


def sampled(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """U = P N, but in the sampled columns S the rule's update of a momentum of G_S, which is zeros before every turn.

    GUM (Pan et al., 2510.17802, algorithm 2) samples layers, at random, and has (G - P R) / q in place of G_S.
    """
    r = p.mT @ g
    u = p @ rule(r, s, h)
    if p.shape[0] == p.shape[1]:
        return u
    columns = g[:, s.sampled]
    s.e = h.mu * s.e + (1 - h.mu) * columns
    u[:, s.sampled] = h.outside * FROM_MOMENTUM[rule](h.mu * s.e + (1 - h.mu) * columns, s, h)
    return u


def fira(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """Fira (Chen et al., 2410.01623): U = P N + S, S = φ∘(G - P R) limited, φⱼ = ‖Nⱼ‖/‖Rⱼ‖ per column."""
    r = p.mT @ g
    n = rule(r, s, h)
    inside = h.alpha if "α" in h.habits else 1.0
    return p @ n + h.outside * limited(_ratio(n, r) * (g - inside * p @ r), s, h) / inside


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
    """FRUGAL (Zmushko et al., 2411.07837) with signSGD as the rule without a state: U = P N + c sign(G - P R), c = 1.

    At full rank nothing is left over but rounding errors, whose sign would not be small.
    """
    r = p.mT @ g
    n = rule(r, s, h)
    return p @ n if p.shape[0] == p.shape[1] else p @ n + h.outside * torch.sign(g - p @ r)


def columns(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """FRUGAL's split with columns of one norm for what has no state: U = P N + c √(a-r) X_j / ‖X_j‖, X = G - P R."""
    r = p.mT @ g
    n = rule(r, s, h)
    if p.shape[0] == p.shape[1]:
        return p @ n
    return p @ n + h.outside * _compensated(g, p, _left(g, p, h.floor))


def alice(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """Alice (Gong et al., 2502.07752, algorithm 2 and equation of its compensation), without tracking of the basis:

    U = P N + c Δ limited, Δ = √(a-r) X diag(p)^(-1/2), X = G - P R, p ← β₁ p + (1 - β₁) (‖X_j‖²)_j; c = 0.4.
    """
    r = p.mT @ g
    n = rule(r, s, h)
    if p.shape[0] == p.shape[1]:
        return p @ n
    s.p = h.beta1 * s.p + (1 - h.beta1) * _left(g, p, h.floor)
    return p @ n + h.outside * limited(_compensated(g, p, s.p), s, h)


def orthogonal(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """FRUGAL's split with Muon's step for what has no state: U = P N + c O, O of G - P R in the place of a momentum."""
    r = p.mT @ g
    n = rule(r, s, h)
    if p.shape[0] == p.shape[1]:
        return p @ n
    return p @ n + h.outside * 0.2 * sqrt(max(h.sides)) * newton_schulz(g - p @ r)


def joint(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """Muon or NorMuon, whose momentum X is of the subspace alone: U of P X + c (G - P R); at full rank the rule."""
    r = p.mT @ g
    x = p @ momentum(r, s, h) + (0.0 if p.shape[0] == p.shape[1] else h.outside * (g - p @ r))
    return FROM_MOMENTUM[rule](x, s, h)


def joint_in_parts(g: Tensor, p: Tensor, s: State, h: Settings, rule: Rule) -> Tensor:
    """Muon or NorMuon, whose momentum is P X + E, E that of G - P R; E is what is stored in 4 bits.

    Where P turns, E ← E + P_old X_old - P_new X_new.
    """
    r = p.mT @ g
    x = p @ momentum(r, s, h)
    if p.shape[0] > p.shape[1]:
        left = g - p @ r
        s.e = h.mu * s.e + (1 - h.mu) * left
        x = x + h.outside * (h.mu * s.e + (1 - h.mu) * left)
    return FROM_MOMENTUM[rule](x, s, h)


def lora(w: Tensor, a: Tensor, b: Tensor, alpha: float, r: int) -> Tensor:
    """LoRA (Hu et al., 2106.09685, eq. 3): W + (α/r) B A; a restart of ReLoRA (2307.05695) makes it the next W."""
    return w + alpha / r * b @ a


# What becomes of the state when P does: C = P_newᵀ P_old (r_new, r_old).


def keep(s: State, c: Tensor, h: Settings) -> None:
    """GaLore: as they are, coordinates of another basis."""


def reset(s: State, c: Tensor, h: Settings) -> None:
    """FRUGAL: from nothing, the steps of the bias correction too."""
    s.m, s.v, s.row, s.column, s.l, s.t = 0 * s.m, 0 * s.v, 0 * s.row, 0 * s.column, 0 * s.l, 0


def rotate(s: State, c: Tensor, h: Settings) -> None:
    """LDAdam (Robert et al., 2410.16103, projection-aware update): M' = C M, V' = (1-β₂ᵗ) |C∘² (V̂ - M̂²) + (C M̂)²|.

    The other rules alike: a momentum as M, Adafactor's row means by C∘², its column means as they are.
    SOAP's L' = C L Cᵀ, its axes QR(C Q), with which V stays.
    """
    if s.axes.any():
        s.m, s.l, s.axes = c @ s.m, c @ s.l @ c.mT, torch.linalg.qr(c @ s.axes)[0]
        return
    first, second = 1 - h.beta1**s.t, 1 - h.beta2**s.t
    m_hat, v_hat = s.m / first, s.v / second
    s.v = second * (c**2 @ (v_hat - m_hat**2) + (c @ m_hat) ** 2).abs()
    s.m = c @ s.m
    s.row = c**2 @ s.row


def complete(s: State, c: Tensor, h: Settings, outside: Tensor | None = None) -> None:
    """LDAdam's rotation, and V' + (1-β₂ᵗ) (1 - Σₖ Cᵢₖ²) v_j of what lay outside, v_j = ‖(G - P_old R)_j‖² / (a - r)."""
    rotate(s, c, h)
    if outside is not None:
        s.v = s.v + (1 - h.beta2**s.t) * torch.outer(1 - (c**2).sum(1), outside)


# What the papers take from elsewhere.


def _ratio(n: Tensor, r: Tensor) -> Tensor:
    """‖Nⱼ‖/‖Rⱼ‖ (b,), 0 in a column without a gradient."""
    return torch.nan_to_num(n.norm(dim=0) / r.norm(dim=0), nan=0.0, posinf=0.0)


def _left(g: Tensor, p: Tensor, floor: float) -> Tensor:
    """‖(G - P PᵀG)_j‖² (b,), of orthonormal P; at least `floor` of ‖G_j‖², below which it is rounding noise."""
    squares = (g - p @ (p.mT @ g)).square().sum(0)
    return torch.maximum(squares, floor * g.square().sum(0))


def _compensated(g: Tensor, p: Tensor, squares: Tensor) -> Tensor:
    """√(a-r) (G - P R)_j / √(squares_j), 0 in a column that had never a gradient."""
    scale = torch.where(squares > 0, ((p.shape[0] - p.shape[1]) / squares).sqrt(), 0.0)
    return (g - p @ (p.mT @ g)) * scale


# By the values that `optim.inner`, `optim.residual` and `optim.transport` have in a recipe.
METHODS: dict[str, Method] = {
    "none": galore,
    "sampled": sampled,
    "fira": fira,
    "apollo": apollo,
    "apollo-mini": apollo_mini,
    "frugal": frugal,
    "columns": columns,
    "alice": alice,
    "orthogonal": orthogonal,
    "joint": joint,
    "joint-4bit": joint_in_parts,
}
TRANSPORTS: dict[str, Callable[..., None]] = {"keep": keep, "reset": reset, "rotate": rotate, "complete": complete}
