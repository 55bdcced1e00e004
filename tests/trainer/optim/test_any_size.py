"""Gradients of no size to speak of, and moments that have decayed to it: no rule destroys a weight with them."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import nn

from galore.kernels.family import InnerRule, Residual
from galore.trainer.optim import GaLoreAdamW

LR = 1e-3
AVERAGES = ("exp_avg", "exp_avg_sq", "row_squares", "residual_squares")  # what decays without a gradient
CASES = list(itertools.product(get_args(InnerRule), (4,), get_args(Residual)))
CASES += [(inner, None, "none") for inner in get_args(InnerRule)]


def optimizer_for(weight: nn.Parameter, inner: str, rank: int | None, residual: str) -> GaLoreAdamW:
    try:
        group = {"params": [("weight", weight)], "rank": rank, "inner": inner, "residual": residual}
        return GaLoreAdamW([group], lr=LR)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [1e-22, 1e-25])
@pytest.mark.parametrize(("inner", "rank", "residual"), CASES)
def test_no_weight_is_lost(inner: str, rank: int | None, residual: str, size: float) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(12, 20))
    optimizer = optimizer_for(weight, inner, rank, residual)
    for factor in (size, 1.0, 0.0, size, 1.0):
        weight.grad = torch.randn(12, 20) * factor
        if factor == 0.0:
            for name, state in optimizer.state_tensors().items():
                if name.endswith(AVERAGES):
                    state.mul_(size)
        before = weight.detach().clone()
        optimizer.step()
        assert (weight - before).abs().max() < 100 * LR
