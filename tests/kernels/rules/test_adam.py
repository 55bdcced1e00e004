"""Adam against its float64 statement."""

import pytest
import torch

from galore.kernels.reference import operations as reference
from galore.kernels.rules.adam import AdamRule


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("lr", [1.0, 0.02])
@pytest.mark.parametrize("convention", ["paper", "reference"])
def test_twenty_steps_equal_the_float64_statement(convention, lr, decay):
    torch.manual_seed(0)
    rule = AdamRule(0.9, 0.99, 1e-3, convention)
    target, m, v = torch.randn(37), torch.zeros(37), torch.zeros(37)
    t64, m64, v64 = target.double(), m.double(), v.double()
    for step in range(1, 21):
        grad = torch.randn(37)
        rule.update_(target, grad, m, v, step=step, lr=lr, decay=decay)
        direction, m64, v64 = reference.adam(grad.double(), m64, v64, step, 0.9, 0.99, 1e-3, convention)
        t64 = decay * t64 - lr * direction if convention == "paper" else decay * (t64 - lr * direction)
    torch.testing.assert_close(target.double(), t64, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(m.double(), m64, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(v.double(), v64, rtol=1e-5, atol=1e-9)


def test_a_learning_rate_of_zero_moves_only_the_moments():
    target, m, v = torch.ones(8), torch.zeros(8), torch.zeros(8)
    AdamRule().update_(target, torch.ones(8), m, v, step=1, lr=0.0)
    assert torch.equal(target, torch.ones(8))
    assert bool((v > 0).all())


def test_second_moment_decays_where_bf16_would_round_back():
    m, v = torch.zeros(4), torch.ones(4)
    AdamRule().update_(torch.zeros(4), torch.zeros(4), m, v, step=1, lr=1.0)
    assert bool((v < 1).all())
