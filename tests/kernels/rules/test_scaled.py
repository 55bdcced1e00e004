"""RACS and SCALE against the specification, and what their equations imply."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from galore.kernels.reference import rules
from galore.kernels.rules.scaled import OutputRule, RacsRule, inverse_root, row_and_column

SHAPES = [(8, 21), (21, 8), (1, 5)]


def gradients(shape: tuple[int, int], steps: int = 12) -> list[Tensor]:
    """Rows and columns of very different size, one step larger, so that the limiter bites; a column of zeros."""
    torch.manual_seed(0)
    sizes = torch.outer(torch.logspace(-3, 0, shape[0]), torch.logspace(-4, 0, shape[1]))
    grads = [torch.randn(shape) * sizes * (20.0 if step == 7 else 1.0) for step in range(steps)]
    return [grad.index_fill(1, torch.tensor([0]), 0.0) for grad in grads]


def state_of(rule: RacsRule | OutputRule, shape: tuple[int, int]) -> dict[str, Tensor]:
    return {name: torch.zeros(size) for name, size in rule.state_shapes(shape).items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_racs_equals_the_specification(shape: tuple[int, int]) -> None:
    rule, exactly, settings = RacsRule(0.8), rules.State(*shape), rules.Settings(1.0, beta1=0.8)
    state, norms = state_of(rule, shape), []
    for step, grad in enumerate(gradients(shape), 1):
        kept = grad.clone()
        direction = rule.direction_(grad, state, step=step)
        torch.testing.assert_close(
            direction.double(), -rules.racs(grad.double(), exactly, settings), rtol=2e-4, atol=1e-6
        )
        assert torch.equal(grad, kept)
        norms.append(float(direction.norm()))
    assert any(after == pytest.approx(1.01 * before) for before, after in itertools.pairwise(norms))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [None, 0.7])
def test_outputs_of_one_norm_equal_the_specification(shape: tuple[int, int], beta: float | None) -> None:
    rule, exactly, settings = OutputRule(beta), rules.State(*shape), rules.Settings(1.0, mu=beta or 0.0)
    method, state = rules.scale if beta is None else rules.scale_momentum, state_of(OutputRule(beta), shape)
    for grad in gradients(shape):
        grad[0] = 0.0 if beta is None else grad[0]
        exact = -method(grad.double(), exactly, settings)
        torch.testing.assert_close(rule.direction_(grad, state).double(), exact, rtol=1e-5, atol=1e-6)
    rows = rule.direction_(grad, state, out=grad).square().mean(1)
    assert grad.square().mean(1) is not rows
    assert all(float(row) == pytest.approx(1.0, rel=1e-5) or float(row) == 0.0 for row in rows)


@pytest.mark.parametrize("power", [-90, -70, 70])
@pytest.mark.parametrize("rule", [OutputRule(), OutputRule(0.9)])
def test_rows_of_any_size_get_one_norm(rule: OutputRule, power: int) -> None:
    grad = gradients((8, 21))[0]
    directions = [rule.direction_(each, state_of(rule, (8, 21))) for each in (grad, grad * 2.0**power)]
    assert torch.equal(*directions)


def test_the_fixed_point_is_the_nearest_product_of_a_row_and_a_column() -> None:
    """The leading singular vectors of G∘², of any size; of a product of two vectors that product itself."""
    q, s = torch.rand(6) + 0.1, torch.rand(9) + 0.1
    for size in (1e-12, 1.0, 1e12):
        grad = (torch.outer(q, s) * size).sqrt()
        found = torch.outer(*row_and_column(grad))
        torch.testing.assert_close(found / size, torch.outer(q, s), rtol=1e-4, atol=1e-6)
    noisy = torch.outer(q, s) * (1 + 0.3 * torch.rand(6, 9))
    u, values, vh = torch.linalg.svd(noisy)
    torch.testing.assert_close(
        torch.outer(*row_and_column(noisy.sqrt())), values[0] * torch.outer(u[:, 0], vh[0]), rtol=1e-3, atol=1e-4
    )


def test_of_zeros_nothing_moves() -> None:
    for rule in (RacsRule(), OutputRule(), OutputRule(0.9)):
        state = state_of(rule, (4, 6))
        assert float(rule.direction_(torch.zeros(4, 6), state, step=1).abs().max()) == 0.0
    assert inverse_root(torch.tensor([0.0, 4.0])).tolist() == [0.0, 0.5]


def test_no_number_is_read_on_meta() -> None:
    for rule in (RacsRule(), OutputRule(0.9)):
        state = {name: torch.empty(size, device="meta") for name, size in rule.state_shapes((4, 6)).items()}
        assert rule.direction_(torch.empty(4, 6, device="meta"), state, step=3).shape == (4, 6)
