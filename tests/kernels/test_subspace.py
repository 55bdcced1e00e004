"""Bases: orthonormal, as good as they should be, and found even where the first algorithm fails."""

import math

import pytest
import torch

from galore.kernels.reference import operations as reference
from galore.kernels.subspace import (
    gaussian,
    overlap,
    power_basis,
    randomized_basis,
    range_basis,
    seeded_basis,
    svd_basis,
    switched_basis,
    unit_columns,
)


def decaying(m, n, power=1.0):
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(m, m)).Q, torch.linalg.qr(torch.randn(n, n)).Q
    k = min(m, n)
    return u[:, :k] * torch.arange(1, k + 1).float().pow(-power) @ v[:, :k].mT


def energy(p, g):
    return ((p.mT @ g).square().sum() / g.square().sum()).item()


@pytest.mark.parametrize("shape", [(30, 70), (70, 30), (40, 40)])
def test_svd_basis_spans_the_leading_subspace(shape):
    g = decaying(*shape)
    p = svd_basis(g, 8).p
    oriented = reference.orient(g)
    assert p.shape == (min(shape), 8)
    torch.testing.assert_close(p.mT @ p, torch.eye(8), atol=1e-5, rtol=0)
    exact = reference.svd_basis(oriented.double(), 8)
    assert overlap(exact, p).item() == pytest.approx(1.0, abs=1e-4)


def test_randomized_basis_captures_99_percent_of_what_svd_captures():
    g = decaying(96, 200, 0.7)
    p = randomized_basis(g, 24, gaussian(200, 24, 1, g)).p
    torch.testing.assert_close(p.mT @ p, torch.eye(24), atol=1e-5, rtol=0)
    assert energy(p, g) >= 0.99 * energy(svd_basis(g, 24).p, g)


def orthonormal_within(p, bound=1e-5):
    return torch.linalg.matrix_norm(p.double().mT @ p.double() - torch.eye(p.shape[1]), 2).item() <= bound


def columns_of_condition(condition, a=200, r=20):
    """(a, r) with singular values from 1 down to 1/condition, evenly in the exponent, without scaled columns."""
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(a, r).double()).Q, torch.linalg.qr(torch.randn(r, r).double()).Q
    return ((u * torch.logspace(0, -math.log10(condition), r).double()) @ v.mT).float()


@pytest.mark.parametrize("condition", [1, 1e2, 1e3, 1e4, 1e6, 1e12])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_a_basis_is_orthonormal_whatever_the_condition_and_scale(condition, scale):
    p = range_basis(columns_of_condition(condition) * scale, 20).p
    assert p.shape == (200, 20)
    assert orthonormal_within(p)


def test_degenerate_sketches_give_an_orthonormal_basis():
    torch.manual_seed(0)
    y = torch.randn(30, 6)
    zero_column, equal_columns, infinite, nan = (y.clone() for _ in range(4))
    zero_column[:, 2], equal_columns[:, 3] = 0.0, y[:, 1]
    infinite[4, 4], nan[0, 0] = torch.inf, torch.nan
    for case in (torch.zeros(30, 6), y[:, :2] @ y[:2], zero_column, equal_columns, infinite, nan):
        assert orthonormal_within(range_basis(case, 6).p)


def test_the_signs_of_a_basis_are_those_of_its_sketch():
    """R = PᵀY has a positive diagonal, so that a basis turns as steadily as its sketch does."""
    y = columns_of_condition(50)
    assert bool((torch.diagonal(range_basis(y, 20).p.mT @ y) > 0).all())


def test_a_power_step_is_the_equation_in_float64():
    g = decaying(40, 70, 0.3)
    p = range_basis(torch.randn(40, 6), 6).p
    found = power_basis(g, p, 6).p
    exact = torch.linalg.qr(g.double() @ (g.double().mT @ p.double())).Q
    assert overlap(exact, found).item() == pytest.approx(1.0, abs=1e-5)
    twice = torch.linalg.qr(g.double() @ (g.double().mT @ exact)).Q
    assert overlap(twice, power_basis(g, p, 6, steps=2).p).item() == pytest.approx(1.0, abs=1e-5)


def test_a_power_step_finds_what_the_square_of_the_gradient_would_lose_in_fp32():
    g = columns_of_condition(1e4, 70, 6).mT  # G Gᵀ: 1e-8 of the leading direction
    padded = torch.zeros(40, 70)
    padded[10:16] = g
    p = range_basis(torch.randn(40, 6), 6).p
    assert power_basis(padded, p, 6).p[10:16].square().sum().item() == pytest.approx(6.0, abs=1e-3)


def test_a_power_step_from_a_row_space_starts_with_half_a_step():
    g = decaying(40, 70, 0.3)
    q = torch.randn(70, 6)
    assert torch.equal(power_basis(g, q, 6, side="right").p, range_basis(g @ q, 6).p)
    assert torch.equal(power_basis(g, q, 6, side="right", steps=3).p, randomized_basis(g, 6, q, 2).p)


def test_a_warm_power_step_follows_a_turning_gradient():
    torch.manual_seed(1)
    scale = torch.arange(1, 97).float().pow(-0.7)[:, None]
    earlier, other = (torch.randn(96, 96) @ (scale * torch.randn(96, 200)) for _ in range(2))
    g = 0.9 * earlier + 0.19**0.5 * other
    best = energy(svd_basis(g, 24).p, g)
    old = randomized_basis(earlier, 24, gaussian(200, 24, 1, g)).p
    assert energy(old, g) < 0.93 * best
    for halfway in (range_basis, unit_columns):
        p = power_basis(g, old, 24, halfway=halfway).p
        assert orthonormal_within(p)
        assert energy(p, g) >= 0.98 * best


def test_halfway_columns_have_unit_length_and_directions_kept():
    y = torch.randn(30, 5) * torch.logspace(-20, 15, 5)
    p = unit_columns(y, 4).p
    torch.testing.assert_close(p.norm(dim=0), torch.ones(4))
    torch.testing.assert_close(p * y[:, :4].norm(dim=0), y[:, :4])
    assert torch.equal(unit_columns(torch.zeros(30, 5), 5).p, torch.zeros(30, 5))


def test_a_power_step_tells_that_a_half_of_it_fell_back():
    g, p = torch.randn(40, 70), columns_of_condition(1, 40, 6)
    assert power_basis(g, p, 6, halfway=lambda y, rank: range_basis(y, rank)._replace(fell_back=True)).fell_back
    assert not power_basis(g, p, 6).fell_back


def test_a_seeded_basis_is_a_function_of_its_seed():
    like = torch.empty(0)
    first = seeded_basis(64, 8, 5, like).clone()  # the shared one is gone when the next is drawn
    torch.manual_seed(123)
    assert torch.equal(seeded_basis(64, 8, 5, like), first)
    assert not torch.equal(seeded_basis(64, 8, 6, like), first)
    assert torch.equal(seeded_basis(64, 8, 5, like.bfloat16()), first.bfloat16())


def test_seeded_bases_are_shared_while_alive_by_those_who_mean_the_same():
    like = torch.empty(0)
    kept = [seeded_basis(30, 4, seed, like) for seed in (1, 2)]
    assert seeded_basis(30, 4, 2, like) is kept[1]
    assert seeded_basis(30, 4, 2, like.bfloat16()) is not kept[1]
    assert not torch.equal(*kept)


def test_a_seeded_basis_keeps_lengths_on_average():
    like, x = torch.empty(0), torch.randn(300)
    lengths = [(seeded_basis(300, 16, seed, like).mT @ x).square().sum() for seed in range(200)]
    assert torch.stack(lengths).mean().item() == pytest.approx(x.square().sum().item(), rel=0.1)  # σ = 2.5 %


def test_nothing_is_drawn_or_read_on_meta(monkeypatch):
    monkeypatch.setattr(torch, "randn", None)
    like = torch.empty(0, device="meta", dtype=torch.bfloat16)
    p = seeded_basis(30, 4, 0, like)
    assert (p.is_meta, p.shape, p.dtype) == (True, (30, 4), torch.bfloat16)
    for halfway in (range_basis, unit_columns):
        found = power_basis(torch.empty(30, 50, device="meta"), p, 4, halfway=halfway)
        assert (found.p.shape, found.fell_back) == ((30, 4), False)


def test_a_warm_start_improves_on_a_cold_one():
    g = decaying(96, 200, 0.5)
    cold = range_basis(g @ gaussian(200, 24, 1, g), 24).p
    warm = range_basis(g @ range_basis((cold.mT @ g).mT, 24).p, 24).p
    assert energy(warm, g) > energy(cold, g)


def test_range_basis_of_a_sketch_is_linear_in_the_gradients():
    parts, omega = [torch.randn(20, 50) for _ in range(4)], gaussian(50, 6, 0, torch.empty(0))
    whole = range_basis(sum(parts) @ omega, 6).p
    summed = range_basis(sum(part @ omega for part in parts), 6).p
    torch.testing.assert_close(whole, summed, atol=1e-4, rtol=0)


def test_svd_that_does_not_converge_falls_back(monkeypatch):
    def diverges(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    g = decaying(20, 33)
    good = svd_basis(g, 5)
    monkeypatch.setattr(torch.linalg, "svd", diverges)
    basis = svd_basis(g, 5)
    assert (good.fell_back, basis.fell_back) == (False, True)
    assert overlap(good.p, basis.p).item() == pytest.approx(1.0, abs=1e-4)


def test_a_rank_deficient_sketch_still_gives_an_orthonormal_basis():
    y = torch.randn(30, 2) @ torch.randn(2, 6)
    p = range_basis(y, 6).p
    torch.testing.assert_close(p.mT @ p, torch.eye(6), atol=1e-5, rtol=0)
    zero = range_basis(torch.zeros(30, 6), 6).p
    torch.testing.assert_close(zero.mT @ zero, torch.eye(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("a", "rank", "drawn"), [(20, 6, 4), (20, 6, 1), (6, 6, 3)])
def test_switching_keeps_what_leads_and_draws_the_rest_from_its_complement(a, rank, drawn):
    g, omega = decaying(a, 33), gaussian(a, drawn, 3, torch.empty(0))
    p = randomized_basis(g, rank, gaussian(33, rank, 1, g)).p
    found = switched_basis(p, g, omega).p
    torch.testing.assert_close(found.mT @ found, torch.eye(rank), atol=1e-5, rtol=0)
    exact = reference.switched_basis(p.double(), g.double(), omega.double())
    for part in (slice(rank - drawn), slice(rank - drawn, None)):
        projection = exact[:, part] @ exact[:, part].mT
        torch.testing.assert_close((found[:, part] @ found[:, part].mT).double(), projection, atol=1e-4, rtol=0)
    assert energy(found[:, : rank - drawn], g) == pytest.approx(energy(svd_basis(g, rank - drawn).p, g), rel=0.05)
