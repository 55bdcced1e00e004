"""Moments carried into a new basis: against float64, against moments of rotated gradients, and exact where they can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.reference import methods, rules
from galore.kernels.rules.adam import AdamRule
from galore.kernels.rules.transport import change_of_basis, rotate

BETAS = {"beta1": 0.9, "beta2": 0.99}


def moments_of(grads: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Adam's moments, without bias correction."""
    m, v = torch.zeros_like(grads[0]), torch.zeros_like(grads[0])
    for grad in grads:
        m = BETAS["beta1"] * m + (1 - BETAS["beta1"]) * grad
        v = BETAS["beta2"] * v + (1 - BETAS["beta2"]) * grad**2
    return m, v


def some_moments(rank: int = 6, columns: int = 40, steps: int = 10) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return moments_of([torch.randn(rank, columns) + 1 for _ in range(steps)])


def basis(rows: int, rank: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, rank, generator=torch.Generator().manual_seed(seed))).Q


@pytest.mark.parametrize("ranks", [(6, 6), (4, 6), (9, 6)])
@pytest.mark.parametrize("step", [1, 10])
def test_rotation_equals_the_specification(ranks, step):
    new, old = ranks
    c = change_of_basis(basis(12, new, 1), basis(12, old, 2))
    assert c.shape == ranks
    m, v = some_moments(old, steps=step)
    exact = rules.State(old, m.shape[1])
    exact.m, exact.v, exact.t = m.double(), v.double(), step
    methods.rotate(exact, c.double(), rules.Settings(1.0, **BETAS))
    for got, expected in zip(rotate(m, v, c, step=step, **BETAS), (exact.m, exact.v), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ranks", [(6, 6), (9, 6)])
def test_completion_equals_the_specification(ranks):
    new, old = ranks
    c, outside = change_of_basis(basis(12, new, 1), basis(12, old, 2)), torch.rand(40)
    m, v = some_moments(old)
    exact = rules.State(old, m.shape[1])
    exact.m, exact.v, exact.t = m.double(), v.double(), 10
    methods.complete(exact, c.double(), rules.Settings(1.0, **BETAS), outside.double())
    for got, expected in zip(rotate(m, v, c, step=10, **BETAS, outside=outside), (exact.m, exact.v), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_wholly_new_direction_has_the_mean_square_of_what_lay_outside():
    """And its first step under Adam the length of one within, not (1 - β₁)/√(1 - β₂)."""
    c = torch.zeros(1, 6)
    m, v = rotate(*some_moments(), c, step=10, **BETAS, outside=torch.full((40,), 4.0))
    torch.testing.assert_close(v, torch.full((1, 40), 4.0 * (1 - BETAS["beta2"] ** 10)))
    assert float(m.abs().max()) == 0.0


def test_gaussian_gradients_in_expectation():
    """Independent coordinates: the rotated moments and the moments of rotated gradients agree on average over columns."""
    torch.manual_seed(0)
    mean, deviation = torch.tensor([[2.0], [0.0], [-1.0], [0.5]]), torch.tensor([[0.5], [1.0], [2.0], [0.1]])
    c, columns = basis(4, 4, 3), 40_000
    grads = [mean + deviation * torch.randn(4, columns) for _ in range(12)]
    true_m, true_v = moments_of([c @ grad for grad in grads])
    m, v = rotate(*moments_of(grads), c, step=12, **BETAS)
    torch.testing.assert_close(m, true_m, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v.mean(1), true_v.mean(1), rtol=0.02, atol=0.0)
    expected = (c.square() @ deviation.square() + (c @ mean).square()) * (1 - BETAS["beta2"] ** 12)
    torch.testing.assert_close(v.mean(1, keepdim=True), expected, rtol=0.02, atol=0.0)


def test_a_signed_permutation_is_exact_even_where_the_variance_is_negative():
    m, v = some_moments(4, 8)
    v[:, :4] *= 0.01
    order, signs = torch.tensor([2, 0, 3, 1]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    c = torch.eye(4)[order] * signs[:, None]
    assert bool((v / (1 - BETAS["beta2"] ** 10) < (m / (1 - BETAS["beta1"] ** 10)) ** 2).any())
    new_m, new_v = rotate(m, v, c, step=10, **BETAS)
    assert torch.equal(new_m, m[order] * signs[:, None])
    torch.testing.assert_close(new_v, v[order], rtol=1e-4, atol=1e-7)


def test_the_second_moment_is_never_negative():
    m, v = some_moments(6, 2000)
    v *= torch.rand_like(v)
    assert bool((rotate(m, v, basis(6, 6, 4), step=10, **BETAS)[1] >= 0).all())


def test_before_the_first_step_there_is_nothing_to_rotate():
    m, v = rotate(torch.zeros(3, 5), torch.zeros(3, 5), basis(3, 3, 0), step=0, **BETAS)
    assert torch.equal(m, torch.zeros(3, 5))
    assert torch.equal(v, torch.zeros(3, 5))


def test_a_reset_without_a_restart_would_overshoot():
    """By (1-β₁)/√(1-β₂), if the bias correction went on counting past steps."""
    rule, target = AdamRule(0.9, 0.999, 0.0), torch.zeros(4)
    rule.update_(target, torch.ones(4), torch.zeros(4), torch.zeros(4), step=10_000, lr=1.0)
    torch.testing.assert_close(target, torch.full((4,), -3.16), rtol=0.01, atol=0.0)


def test_columns_do_not_mix():
    m, v = some_moments()
    c = basis(6, 6, 6)
    whole = rotate(m, v, c, step=10, **BETAS)
    part = rotate(m[:, 5:9], v[:, 5:9], c, step=10, **BETAS)
    for got, expected in zip(part, whole, strict=True):
        torch.testing.assert_close(got, expected[:, 5:9])


def test_no_number_is_read_on_meta():
    m = torch.empty(3, 5, device="meta")
    c = change_of_basis(torch.empty(7, 3, device="meta"), torch.empty(7, 3, device="meta"))
    assert [x.shape for x in rotate(m, torch.empty_like(m), c, step=4, **BETAS)] == [(3, 5), (3, 5)]
