"""Adafactor against a float64 statement of its algorithm, which sums where the kernel takes means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.rules.adafactor import AdafactorRule

RULES = [
    AdafactorRule(),
    AdafactorRule(clip=None),
    AdafactorRule(beta2=0.99),
    AdafactorRule(beta1=0.9),
    AdafactorRule(beta1=0.8, beta2=0.9, eps=1e-3, clip=0.5),
    AdafactorRule(decay=-0.5),
]


def statement(rule: AdafactorRule, grads: list[Tensor]) -> list[Tensor]:
    """Directions of algorithm 4 (matrices) and 5 (vectors) of arXiv 1804.04235, sums of rows and columns as there."""
    directions, m, v, rows, columns = [], 0.0, 0.0, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        beta = (
            1 - t**rule.decay if rule.beta2 is None else rule.beta2 * (1 - rule.beta2 ** (t - 1)) / (1 - rule.beta2**t)
        )
        squares = g**2 + rule.eps
        if g.ndim == 2:
            rows = beta * rows + (1 - beta) * squares.sum(1)
            columns = beta * columns + (1 - beta) * squares.sum(0)
            v = torch.outer(rows, columns) / rows.sum()
        else:
            v = beta * v + (1 - beta) * squares
        u = g / v.sqrt()
        if rule.clip is not None:
            u = u / max(1.0, (u.square().mean().sqrt() / rule.clip).item())
        m = u if rule.beta1 is None else rule.beta1 * m + (1 - rule.beta1) * u
        directions.append(-m)
    return directions


def gradients(shape: tuple[int, ...], steps: int = 20) -> list[Tensor]:
    torch.manual_seed(0)
    scale = torch.logspace(-6, 0, shape[-1])  # columns of very different size
    return [torch.randn(shape) * scale * (1 + 10 * (step == 7)) for step in range(steps)]


def state_of(rule: AdafactorRule, shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(size) for name, size in rule.state_shapes(shape).items()}


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(8, 21), (21, 8), (1, 5), (13,)])
def test_twenty_steps_equal_the_float64_statement(shape, rule):
    grads, state = gradients(shape), state_of(rule, shape)
    for step, (grad, exact) in enumerate(zip(grads, statement(rule, [g.double() for g in grads]), strict=True), 1):
        kept = grad.clone()
        direction = rule.direction_(grad, state, step=step)
        torch.testing.assert_close(direction.double(), exact, rtol=2e-5, atol=1e-6)
        assert torch.equal(grad, kept)


@pytest.mark.parametrize("rule", RULES[:4], ids=str)
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


def test_update_decays_and_moves_the_target():
    rule, grad = AdafactorRule(), gradients((4, 6), 1)[0]
    target, direction = torch.ones(4, 6), rule.direction_(grad, state_of(rule, (4, 6)), step=1)
    rule.update_(target, grad, state_of(rule, (4, 6)), step=1, lr=0.1, decay=0.5)
    torch.testing.assert_close(target, 0.5 + 0.1 * direction)


@pytest.mark.parametrize("shape", [(4, 6), (6,)])
def test_a_gradient_of_zeros_does_not_move(shape):
    rule = AdafactorRule()
    assert torch.equal(rule.direction_(torch.zeros(shape), state_of(rule, shape), step=1).abs(), torch.zeros(shape))


def test_no_number_is_read_on_meta():
    rule = AdafactorRule(beta1=0.9)
    state = {name: torch.empty(size, device="meta") for name, size in rule.state_shapes((4, 6)).items()}
    assert rule.direction_(torch.empty(4, 6, device="meta"), state, step=3).shape == (4, 6)
