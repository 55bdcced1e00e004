"""`convention: reference` against what the packages of GaLore, Fira and APOLLO compute, stated here in float64.

All of them add ε to √v before the bias correction, multiply by the correction last, and decay the updated weight. Fira
subtracts αPR from the gradient and multiplies P N alone by α. The growth of a norm is limited before the correction.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW

STEPS, GAP, RANK, LR, ALPHA, BETAS, EPS, DECAY = 20, 6, 4, 1e-2, 0.25, (0.9, 0.999), 1e-3, 0.1


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    """One is larger than the one before, so that the limiter bites."""
    draw = torch.Generator().manual_seed(1)
    left, right = torch.randn(shape[0], RANK, generator=draw), torch.randn(RANK, shape[1], generator=draw)
    return [
        (left @ right + 0.5 * torch.randn(shape, generator=draw)) * (4.0 if step == 9 else 1.0) for step in range(STEPS)
    ]


def limited(s: Tensor, last: list[float]) -> Tensor:
    norm = s.norm().item()
    factor = min(1.0, 1.01 * last[-1] / norm) if last else 1.0
    last.append(factor * norm)
    return factor * s


def uncorrected(method: str, g: Tensor, p: Tensor, r: Tensor, n: Tensor, last: list[float]) -> Tensor:
    """The update before the bias correction, α included."""
    scale = n.norm() / r.norm() if method == "apollo-mini" else n.norm(dim=0) / r.norm(dim=0)
    if method == "fira":
        return ALPHA * p @ n + limited(scale * (g - ALPHA * p @ r), last)
    if method == "none":
        return ALPHA * p @ n
    return ALPHA * (math.sqrt(128) if method == "apollo-mini" else 1.0) * limited(scale * g, last)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
@pytest.mark.parametrize("method", ["none", "fira", "apollo", "apollo-mini"])
def test_the_reference_convention_is_the_packages_arithmetic(method: str, shape: tuple[int, int]) -> None:
    draws = "apollo" in method
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    optimizer = GaLoreAdamW(
        [{"params": [weight], "rank": RANK, "residual": method, "scale": ALPHA}],
        **{"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY, "update_proj_gap": GAP, "stagger": False},
        proj_type="random" if draws else "svd",
        convention="reference",
    )
    (slot,) = optimizer.projected
    turned = shape[0] >= shape[1]
    start = weight.detach().double().clone()
    w = start.mT if turned else start
    m, v, last = torch.zeros(()), torch.zeros(()), list[float]()
    for step, gradient in enumerate(gradients(shape), 1):
        p = slot.projector.double() if draws else None  # before the clock moves on
        weight.grad = gradient.clone()
        optimizer.step()
        p = slot.projector.double() if p is None else p
        g = gradient.double().mT if turned else gradient.double()
        r = p.mT @ g
        m, v = BETAS[0] * m + (1 - BETAS[0]) * r, BETAS[1] * v + (1 - BETAS[1]) * r * r
        correction = math.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
        update = correction * uncorrected(method, g, p, r, m / (v.sqrt() + EPS), last)
        w = (1 - LR * DECAY) * (w - LR * update)
    w = w.mT if turned else w
    assert (weight.double() - w).norm() < 1e-4 * (w - start).norm()
