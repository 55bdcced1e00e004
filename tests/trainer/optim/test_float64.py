"""float64: a weight in it takes an update that was found in fp32 without losing a bit, and sums in it are exact."""

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


SUMS: dict[str, dict[str, Any]] = {
    **CASES,
    "fira": {"rank": 4, "residual": "fira"},
    "sampled": {"rank": 4, "inner": "muon", "residual": "sampled"},
    "joint in 4 bits": {"rank": 4, "inner": "muon", "residual": "joint-4bit"},
    "first micro-batch": {"rank": 4, "refresh": "first-micro-batch"},
    "delayed": {"rank": 4, "refresh": "delayed"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("case", SUMS)
def test_sums_in_float64_are_those_in_float32_with_more_bits(case: str, where: str, dtype: torch.dtype) -> None:
    found = []
    for sums in (torch.float32, torch.float64):
        start = torch.rand(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
        weight, beside = nn.Parameter(start), nn.Parameter(torch.ones(3, 3))
        own = {"rank": None, "stagger": False, "accumulator_dtype": sums, "gradient_sums": where, **SUMS[case]}
        of_all = {
            name: own.pop(name) for name in ("stagger", "accumulator_dtype", "gradient_sums", "refresh") if name in own
        }
        optimizer = GaLoreAdamW([{"params": [weight], **own}, {"params": [beside]}], lr=1e-2, **of_all)
        draw = torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            for _ in range(2):
                gradient = torch.randn(12, 20, generator=draw).to(dtype)
                ((weight * gradient).sum() + beside.sum()).backward()
            norm = optimizer.clip_grad_norm_(1.0)
            optimizer.step()
        found.append((weight.detach().double(), norm))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-2 if dtype == torch.bfloat16 else 1e-3, atol=1e-3)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-2 if dtype == torch.bfloat16 else 1e-5)
