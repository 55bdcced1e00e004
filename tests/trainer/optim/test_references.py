"""`convention: reference` against what the packages of GaLore, Fira and APOLLO compute: the papers with all their habits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from galore.kernels.reference import methods, operations, rules
from galore.trainer.optim import GaLoreAdamW

STEPS, GAP, RANK, LR, ALPHA, BETAS, EPS, DECAY = 20, 6, 4, 1e-2, 0.25, (0.9, 0.999), 1e-3, 0.1


def gradients(shape: tuple[int, int]) -> list[Tensor]:
    """One is larger than the one before, so that the limiter bites."""
    draw = torch.Generator().manual_seed(1)
    left, right = torch.randn(shape[0], RANK, generator=draw), torch.randn(RANK, shape[1], generator=draw)
    return [
        (left @ right + 0.5 * torch.randn(shape, generator=draw)) * (4.0 if step == 9 else 1.0) for step in range(STEPS)
    ]


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
    settings = rules.Settings(LR, ALPHA, DECAY, *BETAS, EPS, habits=frozenset(rules.HABITS))
    start = operations.orient(weight.detach().double()).clone()
    w, state = start, rules.State(RANK, start.shape[1])
    for gradient in gradients(shape):
        p = slot.projector.double() if draws else None  # before the clock moves on
        weight.grad = gradient.clone()
        optimizer.step()
        p = slot.projector.double() if p is None else p
        g = operations.orient(gradient.double())
        w = methods.step(w, g, p, state, settings, methods.METHODS[method], rules.adamw)
    assert (operations.orient(weight.detach().double()) - w).norm() < 1e-4 * (w - start).norm()
