"""Residual terms against the specification, which forms every matrix in full."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from galore.kernels.reference import methods, rules
from galore.kernels.reference import operations as reference
from galore.kernels.rules import residual as module
from galore.kernels.rules.adam import AdamRule
from galore.kernels.rules.residual import (
    apollo_scale,
    column_squares,
    column_terms,
    fira_terms,
    frugal_block,
    growth_limit_,
    noise_floor,
    norm_ratio,
    residual_squares,
)

BETAS = (0.9, 0.99)
SHAPES = [(8, 20), (20, 20), (1, 7)]


def basis(a: int, rank: int) -> Tensor:
    return torch.linalg.qr(torch.randn(a, rank)).Q


def gradients(a: int, b: int, steps: int = 12) -> list[Tensor]:
    """Noise with a mean, a spike that the limiter must catch, and one column of zeros."""
    torch.manual_seed(0)
    mean = torch.randn(a, b)
    grads = [(mean + torch.randn(a, b)) * (5.0 if step == 6 else 1.0) for step in range(steps)]
    return [grad.index_fill(1, torch.tensor([b - 1]), 0.0) for grad in grads]


def by_the_paper(method, g, p, state, habits=frozenset()):
    """U of a step in float64; the state takes it."""
    settings = rules.Settings(1.0, 0.25, beta1=BETAS[0], beta2=BETAS[1], habits=habits)
    return method(g.double(), p.double(), state, settings, rules.adamw)


def was_limited(norms):
    """Whether some step was held at 1.01 times the one before."""
    return any(after == pytest.approx(1.01 * before) for before, after in itertools.pairwise(norms))


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_fira_equals_the_specification(a, b, convention):
    rank, habits = max(1, a // 2), rules.HABITS if convention == "reference" else ()
    grads, p = gradients(a, b), basis(a, rank)
    m, v, previous = torch.zeros(rank, b), torch.zeros(rank, b), torch.zeros(())
    state, norms = rules.State(rank, b), []
    for step, g in enumerate(grads, 1):
        r, n = p.mT @ g, torch.zeros(rank, b)
        AdamRule(*BETAS, 1e-8, convention).update_(n, r, m, v, step=step, lr=1.0)
        told = {"correction": (1 - BETAS[1] ** step) ** 0.5 / (1 - BETAS[0] ** step), "reference_alpha": 0.25}
        n_adjusted, scale = fira_terms(r, n, g_squares=column_squares(g), previous=previous, **(told if habits else {}))
        exact = by_the_paper(methods.fira, g, p, state, frozenset(habits))
        torch.testing.assert_close((p @ n_adjusted + scale * g).double(), -exact, rtol=1e-3, atol=1e-5)
        if a > rank:
            assert previous.item() == pytest.approx(state.norm, rel=1e-4)
        norms.append(state.norm)
    if a > rank:
        assert was_limited(norms)


@pytest.mark.parametrize("method", [methods.columns, methods.alice], ids=["columns", "alice"])
@pytest.mark.parametrize(("a", "b"), [(8, 20), (6, 7)])
def test_columns_of_one_norm_equal_the_specification(a, b, method):
    """Alice's are averaged over the steps, and limited."""
    rank, mean, previous, norms = a // 2, torch.zeros(b), torch.zeros(()), []
    averaged = {"mean": mean, "beta": BETAS[0], "previous": previous} if method is methods.alice else {}
    p, state, settings = basis(a, rank), rules.State(rank, b), rules.Settings(1.0, beta1=BETAS[0], outside=0.3)
    for g in gradients(a, b):
        r, n = p.mT @ g, torch.randn(rank, b)
        said = {"g_squares": column_squares(g), "rows": a, "factor": 0.3, **averaged}
        n_adjusted, scale = column_terms(r, n, **said)
        exact = method(g.double(), p.double(), state, settings, lambda *_, n=n: -n.double())
        torch.testing.assert_close((p @ n_adjusted + scale * g).double(), -exact, rtol=1e-3, atol=1e-5)
        norms.append(state.norm)
    if averaged:
        assert was_limited(norms)
        return
    outside = (exact + (p @ n).double()).norm(dim=0)[:-1]
    torch.testing.assert_close(outside, torch.full_like(outside, 0.3 * (a - rank) ** 0.5), rtol=1e-4, atol=1e-5)


def test_what_is_left_of_a_column_within_the_subspace_is_taken_for_noise():
    """‖X_j‖² is a difference of larger numbers, and no column is divided by less than a thousandth of its gradient."""
    r, squares = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([1.0 + 2**-22, 4.0 - 2**-21, 0.0])
    _, scale = column_terms(r, torch.zeros(1, 3), g_squares=squares, rows=8, factor=1.0)
    torch.testing.assert_close(scale, -(7**0.5) * torch.tensor([1e3, 0.5e3, 0.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("dtypes", "floor"),
    [((torch.float32,), 1e-6), ((torch.float64, torch.float32), 1e-6), ((torch.float32, torch.bfloat16), 2**-7)],
)
def test_noise_is_that_of_the_coarser_type(dtypes, floor):
    assert noise_floor(*dtypes) == floor
    _, scale = column_terms(
        torch.ones(1, 1), torch.zeros(1, 1), g_squares=torch.ones(1), rows=5, factor=1.0, floor=floor
    )
    torch.testing.assert_close(scale, torch.full((1,), -((4 / floor) ** 0.5)))


def test_fira_without_a_limiter_is_the_residual_times_phi():
    torch.manual_seed(0)
    g, p, n = torch.randn(6, 9), basis(6, 2), torch.randn(2, 9)
    r = p.mT @ g
    n_adjusted, scale = fira_terms(r, n)
    torch.testing.assert_close(scale, -n.norm(dim=0) / r.norm(dim=0))
    torch.testing.assert_close(p @ n_adjusted + scale * g, p @ n + scale * (g - p @ r))


@pytest.mark.parametrize(("per", "method"), [("channel", methods.apollo), ("tensor", methods.apollo_mini)])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_apollo_equals_the_specification(a, b, per, method):
    rank = 1 if per == "tensor" else max(1, a // 2)
    grads, p = gradients(a, b), torch.randn(a, rank) / rank**0.5
    m, v, previous = torch.zeros(rank, b), torch.zeros(rank, b), torch.zeros(())
    state, norms = rules.State(rank, b), []
    for step, g in enumerate(grads, 1):
        r, n = p.mT @ g, torch.zeros(rank, b)
        AdamRule(*BETAS).update_(n, r, m, v, step=step, lr=1.0)
        scale = apollo_scale(r, n, per=per, g_squares=column_squares(g), previous=previous)
        assert scale.shape == ((b,) if per == "channel" else ())
        exact = by_the_paper(method, g, p, state)
        torch.testing.assert_close((scale * g).double(), -exact, rtol=1e-3, atol=1e-5)
        assert previous.item() == pytest.approx(state.norm, rel=1e-4)
        norms.append(state.norm)
    assert was_limited(norms)


@pytest.mark.parametrize("shape", [(9, 30), (30, 9), (12, 12)])
def test_frugal_is_the_sign_of_the_residual_block_by_block_in_either_layout(shape):
    torch.manual_seed(0)
    w_grad = torch.randn(shape)
    g = reference.orient(w_grad)
    p = basis(g.shape[0], 3)
    r = p.mT @ g
    exact = -torch.sign(g.double() - p.double() @ (p.double().mT @ g.double()))
    left, right = (r.mT, p.mT) if shape[0] >= shape[1] else (p, r)
    blocks = [frugal_block(w_grad[i : i + 4], left[i : i + 4], right) for i in range(0, shape[0], 4)]
    assert torch.equal(reference.orient(torch.cat(blocks)).double(), exact)
    bf16 = frugal_block(w_grad.bfloat16(), left.bfloat16(), right.bfloat16())
    assert bf16.dtype == torch.float32


def test_zero_columns_and_a_zero_gradient_give_zeros():
    r, n, previous = torch.randn(3, 5), torch.randn(3, 5), torch.zeros(())
    r[:, 2] = 0
    assert norm_ratio(n, r)[2] == 0
    n_adjusted, scale = fira_terms(r, n, g_squares=r.square().sum(0), previous=previous)
    assert bool(torch.isfinite(n_adjusted).all())
    assert scale[2] == 0
    assert torch.equal(n_adjusted[:, 2], n[:, 2])
    zeros = torch.zeros(3, 5)
    for per in ("channel", "tensor"):
        scale = apollo_scale(zeros, n, per=per, g_squares=torch.zeros(5), previous=previous)
        assert torch.equal(scale.abs(), torch.zeros_like(scale))


def test_tiny_projections_do_not_overflow_the_norm():
    r, previous = torch.full((2, 3), 1e-18), torch.ones(())
    n_adjusted, scale = fira_terms(r, torch.ones(2, 3), g_squares=torch.full((3,), 4.0), previous=previous)
    assert bool(torch.isfinite(n_adjusted).all())
    assert bool(torch.isfinite(scale).all())
    assert ((scale.double().square() * 4).sum().sqrt()).item() == pytest.approx(1.01, rel=1e-5)


@pytest.mark.parametrize("size", [1e-19, 1e-22, 1e-23, 1e-30])
def test_what_squares_cannot_tell_from_zero_adds_nothing(size):
    """Nor does an average of squares that has decayed to it."""
    r, n = torch.full((2, 3), size), torch.ones(2, 3)
    squares = column_squares(r)
    assert not fira_terms(r, n, g_squares=squares, previous=torch.zeros(()))[1].any()
    for per in ("channel", "tensor"):
        assert not apollo_scale(r, n, per=per, g_squares=squares, previous=torch.ones(())).any()
    kept = {"mean": torch.full((3,), size) ** 2, "beta": 0.9, "previous": torch.ones(())}
    for averaged in ({}, kept):
        adjusted, scale = column_terms(r, n, g_squares=2 * squares, rows=1000, factor=1.0, **averaged)
        assert not scale.any()
        assert torch.equal(adjusted, n)


def test_growth_is_limited_and_a_step_of_norm_zero_is_not_remembered():
    previous, factors, norms = torch.zeros(()), [], []
    for norm in (2.0, 2.01, 4.0, 1.0, 0.0, 3.0):
        factors.append(growth_limit_(torch.tensor(norm), previous).item())
        norms.append(previous.item())
    grown = 2.01 * 1.01
    assert norms == pytest.approx([2.0, 2.01, grown, 1.0, 1.0, 1.01])
    assert factors == pytest.approx([1.0, 1.0, grown / 4, 1.0, 1.0, 1.01 / 3])


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_residual_norms_for_a_projector_that_is_not_orthonormal(alpha):
    torch.manual_seed(0)
    g, p = torch.randn(8, 20), basis(8, 3) + 0.05 * torch.randn(8, 3)
    r = p.mT @ g
    exact = (g.double() - alpha * p.double() @ r.double()).square().sum(0)
    squares = residual_squares(column_squares(g), r, p.mT @ p, alpha)
    torch.testing.assert_close(squares.double(), exact, rtol=1e-4, atol=1e-5)
    assert (residual_squares(column_squares(g), r, None, alpha) - squares).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(9, 30), (30, 9), (12, 12), (5, 70)])
def test_column_squares_in_blocks(monkeypatch, shape, dtype):
    monkeypatch.setattr(module, "block_elements", lambda _: 64)
    torch.manual_seed(0)
    g = reference.orient(torch.randn(shape).to(dtype))
    squares = column_squares(g)
    assert squares.dtype == torch.float32
    torch.testing.assert_close(squares.double(), g.double().square().sum(0), rtol=1e-5, atol=0.0)


def test_no_number_is_read_on_meta():
    g, r = torch.empty(8, 20, device="meta", dtype=torch.bfloat16), torch.empty(3, 20, device="meta")
    state = {"g_squares": column_squares(g), "previous": torch.empty((), device="meta")}
    n_adjusted, scale = fira_terms(r, r, gram=torch.empty(3, 3, device="meta"), **state)
    assert (n_adjusted.shape, scale.shape) == ((3, 20), (20,))
    assert apollo_scale(r, r, per="tensor", **state).shape == ()
    assert frugal_block(g, torch.empty(8, 3, device="meta"), r).shape == (8, 20)
