"""Adafactor against the specification, which sums where the rule takes means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.reference import rules
from galore.kernels.rules.adafactor import AdafactorRule

RULES = [AdafactorRule(), AdafactorRule(beta1=0.9), AdafactorRule(beta1=0.8)]


def gradients(shape: tuple[int, ...], steps: int = 20) -> list[Tensor]:
    torch.manual_seed(0)
    scale = torch.logspace(-6, 0, shape[-1])  # columns of very different size
    return [torch.randn(shape) * scale * (1 + 10 * (step == 7)) for step in range(steps)]


def state_of(rule: AdafactorRule, shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(size) for name, size in rule.state_shapes(shape).items()}


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(8, 21), (21, 8), (1, 5), (13,)])
def test_twenty_steps_equal_the_specification(shape, rule):
    state, exactly, settings = (
        state_of(rule, shape),
        rules.State(*shape),
        rules.Settings(1.0, beta1=rule.beta1 or 0.0),
    )
    for step, grad in enumerate(gradients(shape), 1):
        exact, kept = -rules.adafactor(grad.double(), exactly, settings), grad.clone()
        direction = rule.direction_(grad, state, step=step)
        torch.testing.assert_close(direction.double(), exact, rtol=2e-5, atol=1e-6)
        assert torch.equal(grad, kept)


@pytest.mark.parametrize("rule", RULES[:2], ids=str)
@pytest.mark.parametrize("shape", [(8, 21), (13,)])
def test_the_direction_may_replace_the_gradient(shape, rule):
    apart, inside = state_of(rule, shape), state_of(rule, shape)
    for step, grad in enumerate(gradients(shape, 3), 1):
        direction = rule.direction_(grad, apart, step=step)
        assert rule.direction_(grad, inside, step=step, out=grad) is grad
        assert torch.equal(grad, direction)


def test_state_is_rows_and_columns_of_a_matrix_and_the_whole_of_a_vector():
    assert AdafactorRule().state_shapes((3, 5)) == {"row": (3,), "column": (5,)}
    assert AdafactorRule().state_shapes((5,)) == {"exp_avg_sq": (5,)}
    assert AdafactorRule(beta1=0.9).state_shapes((3, 5)) == {"row": (3,), "column": (5,), "exp_avg": (3, 5)}


@pytest.mark.parametrize("shape", [(4, 6), (6,)])
def test_a_gradient_of_zeros_does_not_move(shape):
    rule = AdafactorRule()
    assert torch.equal(rule.direction_(torch.zeros(shape), state_of(rule, shape), step=1).abs(), torch.zeros(shape))


def test_no_number_is_read_on_meta():
    rule = AdafactorRule(beta1=0.9)
    state = {name: torch.empty(size, device="meta") for name, size in rule.state_shapes((4, 6)).items()}
    assert rule.direction_(torch.empty(4, 6, device="meta"), state, step=3).shape == (4, 6)
