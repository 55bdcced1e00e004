"""Bases: orthonormal, as good as they should be, and found even where the first algorithm fails."""

import pytest
import torch

from galore.kernels import reference
from galore.kernels.subspace import gaussian, overlap, randomized_basis, range_basis, svd_basis


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
