"""The equations of the optimizer family for one weight, in float64 and in the order of the papers; nothing here is fast.

The weight and its gradients are oriented: (a, b) with the projected side first. Bases come from outside, since a paper
defines a subspace and not its coordinates; `None` is the identity, a rule on the whole gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from galore.trainer.recipe.schema.optim import OptimSection

Storage = Callable[[str, Tensor], Tensor]


def exact(name: str, moment: Tensor) -> Tensor:
    """Storage that loses nothing."""
    return moment


def dct_basis(a: int) -> Tensor:
    """D (a, a), orthonormal: D[i, j] = √(2/a) cos(π (2i + 1) j / 2a), the column j = 0 divided by √2."""
    i, j = torch.arange(a, dtype=torch.float64)[:, None], torch.arange(a, dtype=torch.float64)
    d = (2 / a) ** 0.5 * torch.cos(math.pi * (2 * i + 1) * j / (2 * a))
    d[:, 0] /= 2**0.5
    return d


class Statement:
    """W (a, b) under the settings of a recipe; `stored` is what a state dtype makes of `exp_avg` and `exp_avg_sq`."""

    def __init__(self, weight: Tensor, rank: int, shape: tuple[int, int], optim: OptimSection, stored: Storage) -> None:
        self.w, self.optim, self.stored = weight.double(), optim, stored
        self.long_side = max(shape)  # of the weight as it is stored
        self.b1, self.b2, self.eps = optim.adam_beta1, optim.adam_beta2, optim.adam_epsilon
        self.p: Tensor | None = None
        self.t, self.norm = 0, 0.0
        self.m = self.v = torch.zeros(rank, weight.shape[1], dtype=torch.float64)
        self.row, self.column = self.m.sum(1), self.m.sum(0)

    def step(self, g: Tensor, p: Tensor | None, turned: bool) -> None:
        """W ← (1 - ηλ) W - ηα·update for the gradient g (a, b); `turned`: p (a, r) is not the basis of the last step."""
        g = g.double()
        if p is not None:
            p = p.double()
            if turned and self.p is not None:
                self.transport(p.T @ self.p)
        self.p, self.t = p, self.t + 1
        r = g if p is None else p.T @ g
        n = {"adamw": self.adamw, "adafactor": self.adafactor, "muon": self.muon, "sumo": self.sumo}[self.optim.inner](
            r
        )
        self.m, self.v = self.stored("exp_avg", self.m), self.stored("exp_avg_sq", self.v)
        update = n if p is None else self.lifted(g, p, r, n)
        lr, decay, alpha = self.optim.learning_rate, self.optim.weight_decay, self.optim.effective_scale
        self.w = (1 - lr * decay) * self.w - lr * alpha * update

    def adamw(self, r: Tensor) -> Tensor:
        """Kingma & Ba, 1412.6980, algorithm 1."""
        self.m = self.b1 * self.m + (1 - self.b1) * r
        self.v = self.b2 * self.v + (1 - self.b2) * r**2
        m_hat, v_hat = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return m_hat / (v_hat.sqrt() + self.eps)

    def adafactor(self, r: Tensor) -> Tensor:
        """Shazeer & Stern, 1804.04235, algorithm 4 with sections 6 and 7.2: d = 1, β̂₂ₜ = 1 - t^-0.8, ε₁ = 1e-30."""
        beta, squares = 1 - self.t**-0.8, r**2 + 1e-30
        self.row = beta * self.row + (1 - beta) * squares.mean(dim=1)
        self.column = beta * self.column + (1 - beta) * squares.mean(dim=0)
        u = r / (torch.outer(self.row, self.column) / self.row.mean()).sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()))
        if self.b1 == 0:
            return u
        self.m = self.b1 * self.m + (1 - self.b1) * u
        return self.m

    def muon(self, r: Tensor) -> Tensor:
        """Jordan et al.: Nesterov momentum, five quintic Newton-Schulz steps; Moonlight's 0.2·√max(m, n), 2502.16982."""
        mu = self.optim.momentum
        self.m = mu * self.m + (1 - mu) * r
        x = mu * self.m + (1 - mu) * r
        x = x / x.norm()
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        return 0.2 * self.long_side**0.5 * x

    def sumo(self, r: Tensor) -> Tensor:
        """SUMO, 2505.24749: the polar factor U Vᵀ of the average of the projected gradients, (M Mᵀ)^(-1/2) M."""
        mu = self.optim.momentum
        self.m = mu * self.m + (1 - mu) * r
        values, vectors = torch.linalg.eigh(self.m @ self.m.T)
        return 0.2 * self.long_side**0.5 * (vectors / values.sqrt()) @ vectors.T @ self.m

    def lifted(self, g: Tensor, p: Tensor, r: Tensor, n: Tensor) -> Tensor:
        """P N of GaLore, 2403.03507, and what Fira, 2410.01623, APOLLO, 2412.05270, and FRUGAL, 2411.07837, make of it."""
        kind = self.optim.residual
        if kind == "none":
            return p @ n
        if kind == "frugal":
            full = p.shape[0] == p.shape[1]  # nothing is left over, and a sign of rounding errors would not be small
            return p @ n if full else p @ n + torch.sign(g - p @ r)
        if kind == "apollo-mini":
            return 128**0.5 * self.limited(g * n.norm() / r.norm())
        ratio = torch.nan_to_num(n.norm(dim=0) / r.norm(dim=0), nan=0.0, posinf=0.0)  # columns without a gradient
        return self.limited(g * ratio) if kind == "apollo" else p @ n + self.limited((g - p @ r) * ratio)

    def limited(self, s: Tensor) -> Tensor:
        """The norm-growth limiter of Fira and APOLLO, γ = 1.01."""
        if 0 < 1.01 * self.norm < float(s.norm()):
            s = s * (1.01 * self.norm / s.norm())
        self.norm = float(s.norm())
        return s

    def transport(self, c: Tensor) -> None:
        """The state in another basis, c = P_newᵀ P_old: as it is, from nothing, or as LDAdam, 2410.16103, rotates it."""
        if self.optim.effective_transport == "reset":
            self.m, self.v, self.t = torch.zeros_like(self.m), torch.zeros_like(self.v), 0
            self.row, self.column = torch.zeros_like(self.row), torch.zeros_like(self.column)
        if self.optim.effective_transport == "rotate":
            first, second = 1 - self.b1**self.t, 1 - self.b2**self.t
            m_hat, v_hat = self.m / first, self.v / second
            self.v = second * (c**2 @ (v_hat - m_hat**2) + (c @ m_hat) ** 2).abs()
            self.m, self.row = c @ self.m, c**2 @ self.row
            self.m, self.v = self.stored("exp_avg", self.m), self.stored("exp_avg_sq", self.v)
