"""Adam against its float64 statement."""

import pytest
import torch

from galore.kernels import reference
from galore.kernels.adam import AdamRule


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
def test_twenty_steps_equal_the_float64_statement(convention, grad_scale):
    torch.manual_seed(0)
    rule = AdamRule(0.9, 0.99, 1e-3, convention)
    m, v = torch.zeros(37), torch.zeros(37)
    m64, v64 = m.double(), v.double()
    for step in range(1, 21):
        grad = torch.randn(37)
        direction = rule.direction_(grad, m, v, step, grad_scale)
        expected, m64, v64 = reference.adam(grad_scale * grad.double(), m64, v64, step, 0.9, 0.99, 1e-3, convention)
        torch.testing.assert_close(direction.double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(v.double(), v64, rtol=1e-5, atol=1e-9)


def test_bf16_gradient_is_widened_before_any_arithmetic():
    grad = torch.full((8,), 1.0 + 2**-7, dtype=torch.bfloat16)
    m, v = torch.zeros(8), torch.zeros(8)
    AdamRule(0.9, 0.999, 1e-8).direction_(grad, m, v, 1)
    torch.testing.assert_close(v, (grad.double().square() * 1e-3).float(), rtol=1e-4, atol=0)


def test_second_moment_decays_where_bf16_would_round_back():
    m, v = torch.zeros(4), torch.ones(4)
    AdamRule(0.9, 0.999, 1e-8).direction_(torch.zeros(4), m, v, 1)
    assert bool((v < 1).all())
