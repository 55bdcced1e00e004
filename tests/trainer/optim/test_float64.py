"""Weights in float64: an update is found in fp32, and added in float64, so that no bit of theirs is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from galore.trainer.optim import GaLoreAdamW

STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, in reference order": {"convention": "reference"},
    "projected": {"rank": 4},
    "projected, in reference order": {"rank": 4, "convention": "reference", "proj_type": "random"},
    "dense terms": {"rank": 4, "residual": "frugal"},
    "columns": {"rank": 4, "residual": "columns"},
    "dct": {"rank": 4, "proj_type": "dct"},
    "coded projector": {"rank": 4, "projector_dtype": "int4"},
    "muon": {"inner": "muon"},
    "soap": {"inner": "soap"},
    "adafactor": {"inner": "adafactor"},
}


def moved(start: Tensor, lr: float, **options: Any) -> Tensor:
    """By how much a weight moves, in units of the learning rate, under gradients that are not of it."""
    weight = nn.Parameter(start.clone())
    optimizer = GaLoreAdamW([{"params": [("w", weight)], **options}], lr=lr, stagger=False)
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        weight.grad = torch.randn(weight.shape, generator=draw).to(weight.dtype)
        optimizer.step()
    return (weight.detach().double() - start.double()) / lr


@pytest.mark.parametrize("case", CASES)
def test_steps_below_the_last_bit_of_fp32_add_up(case: str) -> None:
    start = 1 + torch.rand(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = moved(torch.zeros(12, 20), 1.0, **CASES[case])
    torch.testing.assert_close(moved(start, 1e-9, **CASES[case]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"rank": 4}, {"inner": "muon"}])
def test_decay_keeps_every_bit(options: dict[str, Any]) -> None:
    start = torch.rand(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    optimizer = GaLoreAdamW([{"params": [("w", weight)], **options}], lr=1e-9, weight_decay=1.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight.detach(), start * (1 - 1e-9))
