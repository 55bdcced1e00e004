"""Project and lift against float64, error to error, both sides, ragged shapes, fp32 and bf16."""

import pytest
import torch

from galore.kernels import reference
from galore.kernels.projection import lift_update_, orient, project
from galore.kernels.rounding import RoundingNoise

SHAPES = [(16, 40), (40, 16), (24, 24), (1, 7), (513, 300), (300, 1025)]


def operands(shape, dtype, rank=5):
    torch.manual_seed(0)
    short, long = sorted(shape)
    rank = min(rank, short)
    p = torch.linalg.qr(torch.randn(short, rank)).Q.to(dtype)
    return torch.randn(shape, dtype=dtype), p, torch.randn(rank, long, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_project_is_as_exact_as_torch(shape, dtype):
    g, p, _ = operands(shape, dtype)
    exact = reference.project(p.double(), reference.orient(g).double())
    plain = (p.mT @ reference.orient(g)).double()
    error = (project(p, orient(g)).double() - exact).norm()
    assert error <= (plain - exact).norm() + 1e-6 * exact.norm()


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_lift_update_against_float64(shape, dtype, convention):
    w, p, n = operands(shape, dtype)
    settings = {"lr": 0.1, "scale": 0.25, "weight_decay": 0.3}
    exact = reference.lift_update(
        reference.orient(w).double(), p.double(), n.double(), **settings, convention=convention
    )
    lift_update_(w, p, n, alpha=-0.1 * 0.25, decay=1 - 0.1 * 0.3, decay_after=convention == "reference")
    ulp = 2**-8 if dtype == torch.bfloat16 else 2**-22
    torch.testing.assert_close(reference.orient(w).double(), exact, rtol=2 * ulp, atol=2 * ulp)


@pytest.mark.parametrize("shape", SHAPES)
def test_stochastic_lift_is_unbiased_and_repeatable(shape):
    w, p, n = operands(shape, torch.bfloat16)
    exact = reference.lift_update(reference.orient(w).double(), p.double(), n.double(), 0.001, 0.25, 0.0)
    copies = []
    for step in range(200):
        copy = w.clone()
        lift_update_(copy, p, n, alpha=-0.001 * 0.25, noise=RoundingNoise(0, step, w.device), tensor=3)
        copies.append(copy)
    again = w.clone()
    lift_update_(again, p, n, alpha=-0.001 * 0.25, noise=RoundingNoise(0, 0, w.device), tensor=3)
    assert torch.equal(again, copies[0])
    moved = torch.stack(copies).double().mean(0) - w.double()
    intended = reference.orient(exact).reshape(w.shape) if shape[0] < shape[1] else exact.mT
    intended = intended - w.double()
    kept = (moved * intended).sum() / intended.square().sum()
    tolerance = 6 * 2**-8 * w.double().norm() / intended.norm() / 200**0.5 / w.numel() ** 0.5 + 0.02
    assert abs(kept - 1) < max(tolerance, 0.05) * 3
