"""Newton-Schulz and the polar factor against float64 singular vectors, rows of one size against the specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.device import meta_stands_for
from galore.kernels.reference import rules
from galore.kernels.rules import orthogonalize as module
from galore.kernels.rules.orthogonalize import (
    NormedRule,
    OrthogonalRule,
    level_rows_,
    orthogonalize,
    polar_factor,
    rms_scale,
)

SHAPES = [(32, 128), (128, 32), (16, 16), (1, 9), (9, 1)]


def matrix(shape: tuple[int, int], smallest: float = 0.1, scale: float = 1.0) -> Tensor:
    """fp32 with singular values from 1 down to `smallest`, times `scale`."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(side, min(shape), dtype=torch.float64)).Q for side in shape)
    return (scale * (u * torch.linspace(1, smallest, min(shape), dtype=torch.float64)) @ v.mT).float()


def polar(m: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(m.double(), full_matrices=False)
    return u @ vh


def newton_schulz(m: Tensor, steps: int) -> Tensor:
    """The odd quintic p(σ) = aσ + bσ³ + cσ⁵ applied to each singular value, which is what the iteration does."""
    u, s, vh = torch.linalg.svd(m.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vh


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e6, 1e-25, 1e-33, 1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_five_steps_equal_the_quintic_of_the_singular_values(shape, scale):
    m = matrix(shape, scale=scale)
    result = orthogonalize(m)
    torch.testing.assert_close(result.double(), newton_schulz(m, 5), rtol=0, atol=2e-4)
    values = torch.linalg.svdvals(result.double())
    assert values.min() >= 0.68
    assert values.max() <= 1.2


@pytest.mark.parametrize("shape", [(48, 128), (128, 48)])
def test_singular_values_after_five_steps_of_noise(shape):
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).double())
    assert values.min() >= 0.7 - 0.02
    assert values.max() <= 1.2


def test_bf16_iteration_stays_near_one(monkeypatch):
    monkeypatch.setattr(module, "device_type", lambda _: "cuda")
    m = matrix((32, 128))
    result = orthogonalize(m)
    assert result.dtype == torch.float32
    assert torch.equal(result, result.bfloat16().float())
    values = torch.linalg.svdvals(result.double())
    assert values.min() >= 0.6
    assert values.max() <= 1.25


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_the_iteration_works_on_the_smaller_side(monkeypatch, shape):
    grams, addmm = set(), torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda x, left, *rest, **how: grams.add(left.shape) or addmm(x, left, *rest, **how)
    )
    orthogonalize(matrix(shape))
    assert grams == {(8, 8)}


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e6])
@pytest.mark.parametrize("shape", SHAPES)
def test_polar_factor_is_orthonormal_and_the_nearest_one(shape, scale):
    m = matrix(shape, smallest=1e-3, scale=scale)
    result = polar_factor(m).p.double()
    wide = result if shape[0] <= shape[1] else result.mT
    torch.testing.assert_close(wide @ wide.mT, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(result, polar(m), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_polar_factor_without_svd(monkeypatch, shape):
    m = matrix(shape, smallest=1e-2)
    exact = polar_factor(m).p

    def diverges(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", diverges)
    torch.testing.assert_close(polar_factor(m).p, exact, rtol=0, atol=1e-4)
    assert torch.equal(polar_factor(torch.zeros(shape)).p, torch.zeros(shape))


@pytest.mark.parametrize("function", [orthogonalize, lambda m: polar_factor(m).p], ids=["newton-schulz", "exact"])
def test_zeros_stay_zeros(function):
    assert torch.equal(function(torch.zeros(4, 7)).abs(), torch.zeros(4, 7))


def test_directions_that_are_not_there_stay_zero():
    torch.manual_seed(0)
    m = torch.randn(8, 3) @ torch.randn(3, 20)
    values = torch.linalg.svdvals(polar_factor(m).p.double())
    torch.testing.assert_close(values[:3], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)
    assert values[3:].max() < 1e-5


def test_scale_factors():
    assert rms_scale(100, 400) == rms_scale(400, 100) == 4.0
    update = rms_scale(20, 50) * polar_factor(matrix((20, 50))).p
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("rule", [OrthogonalRule(), NormedRule()])
def test_a_momentum_that_decays_to_nothing_moves_nothing_far(rule):
    """As that of a layer which gets no gradient for some thousand steps."""
    state = {name: torch.zeros(size) for name, size in rule.state_shapes((6, 10)).items()}
    zeros = torch.zeros(6, 10)
    rule.direction_(matrix((6, 10)), state)
    largest = torch.stack([rule.direction_(zeros, state).abs().max() for _ in range(2200)])
    assert largest.max() < 1.25
    assert rule.direction_(matrix((6, 10)), state).abs().max() < 1.25


@pytest.mark.parametrize(("exact", "nesterov"), [(True, False), (True, True), (False, True)])
def test_rule_against_jordans_momentum(exact, nesterov):
    """B ← μB + G and G + μB, his first form, differ by a factor that orthogonalization removes."""
    rule = OrthogonalRule(0.9, nesterov, exact)
    state = {name: torch.zeros(size) for name, size in rule.state_shapes((6, 10)).items()}
    buffer = torch.zeros(6, 10, dtype=torch.float64)
    torch.manual_seed(0)
    for step in range(1, 6):
        grad = torch.randn(6, 10)
        buffer = 0.9 * buffer + grad.double()
        moment = grad.double() + 0.9 * buffer if nesterov else buffer
        expected = polar(moment) if exact else newton_schulz(moment, 5)
        direction = rule.direction_(grad, state, step=step, out=torch.empty_like(grad))
        torch.testing.assert_close(direction.double(), -expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(state["exp_avg"].double(), 0.1 * buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_rows_of_one_size_equal_the_specification(shape):
    rule, exactly, settings = NormedRule(0.9), rules.State(*shape), rules.Settings(1.0, mu=0.9, sides=shape)
    state = {name: torch.zeros(size) for name, size in rule.state_shapes(shape).items()}
    torch.manual_seed(0)
    for step in range(1, 6):
        grad = torch.randn(shape) * torch.logspace(0, -1, shape[0])[:, None]
        grad[2] = 0
        expected = -rules.normuon(grad.double(), exactly, settings)
        direction = rule.direction_(grad, state, step=step, out=torch.empty_like(grad))
        torch.testing.assert_close(rms_scale(*shape) * direction.double(), expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(
            rms_scale(*shape) ** 2 * state["row_squares"].double(), exactly.q, rtol=1e-3, atol=1e-6
        )
        assert not direction[2].any()


def test_rows_of_zeros_stay_zeros():
    squares = torch.zeros(4)
    assert torch.equal(level_rows_(torch.zeros(4, 7), squares, 0.9), torch.zeros(4, 7))
    assert not squares.any()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("exact", [True, False])
def test_no_number_is_read_on_meta(kind, exact):
    grad = torch.empty(4, 6, device="meta")
    with meta_stands_for(kind):
        direction = OrthogonalRule(exact=exact).direction_(grad, {"exp_avg": torch.empty_like(grad)}, out=grad)
    assert direction.shape == (4, 6)
    assert direction.dtype == torch.float32
