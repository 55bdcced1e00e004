"""Factors of a weight gradient: projected, sketched and multiplied out against float64; a linear layer that gives them."""

import pytest
import torch

from galore.kernels.linear import Factors, factored_linear, saves_work
from galore.kernels.reference import operations as reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "n"), [(24, 40), (40, 24), (32, 32), (1, 9)])
def test_factors_against_float64(m, n, dtype):
    torch.manual_seed(0)
    x, dy = torch.randn(3, 50, n, dtype=dtype), torch.randn(3, 50, m, dtype=dtype)
    rank = min(6, m, n)
    p = torch.linalg.qr(torch.randn(min(m, n), rank)).Q.to(dtype)
    omega = torch.randn(max(m, n), rank, dtype=dtype)
    exact = dy.double().flatten(0, 1).mT @ x.double().flatten(0, 1)
    whole = (dy.flatten(0, 1).mT @ x.flatten(0, 1)).to(dtype)
    factors = Factors.of(x, dy)
    assert factors.multiply().shape == (m, n)
    torch.testing.assert_close(factors.multiply(), whole)

    def no_worse(got, plain, true):
        assert (got.double() - true).norm() <= 2 * (plain.double() - true).norm() + 1e-5 * true.norm()

    oriented, g = reference.orient(exact), reference.orient(whole)
    no_worse(factors.project(p), p.mT @ g, p.double().mT @ oriented)
    no_worse(factors.sketch(omega), g @ omega, oriented @ omega.double())


@pytest.mark.parametrize("needs_input_grad", [True, False])
def test_the_layer_computes_what_linear_computes(needs_input_grad):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 7, 12, requires_grad=needs_input_grad), torch.randn(20, 12, requires_grad=True)
    received = []
    y = factored_linear(x, weight, received.append)
    torch.testing.assert_close(y, x @ weight.mT)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert weight.grad is None
    torch.testing.assert_close(received[0].multiply(), dy.flatten(0, 1).mT @ x.detach().flatten(0, 1))
    if needs_input_grad:
        torch.testing.assert_close(x.grad, dy @ weight)


def test_work_is_saved_where_the_flops_say_so():
    assert saves_work(1024, 512, 1376, 128)
    assert not saves_work(1024, 512, 512, 400)
    assert saves_work(10, 512, 512, 400)
