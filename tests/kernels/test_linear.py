"""Factors of a weight gradient: projected, sketched and multiplied out against float64; a linear layer that gives them."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from galore.kernels.linear import (
    PLAIN,
    Factored,
    Factors,
    Pieces,
    Plain,
    as_autocast,
    factored_linear,
    gather,
    gathering,
    product_linear,
    rows_of,
    saves_work,
)
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
    some = slice(max(m, n) // 3, max(m, n) // 2)
    no_worse(factors.part(some), g[:, some], oriented[:, some])


@pytest.mark.parametrize("needs_input_grad", [True, False])
def test_the_layer_computes_what_linear_computes(needs_input_grad):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 7, 12, requires_grad=needs_input_grad), torch.randn(20, 12, requires_grad=True)
    received = []
    y = factored_linear(x, weight, Factored(received.append))
    torch.testing.assert_close(y, x @ weight.mT)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert weight.grad is None
    torch.testing.assert_close(received[0].multiply(), dy.flatten(0, 1).mT @ x.detach().flatten(0, 1))
    if needs_input_grad:
        torch.testing.assert_close(x.grad, dy @ weight)


@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 3)])
def test_a_vector_is_one_row(leading):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((*leading, 12), (20, 12), (20,)))
    dy, received = torch.randn(*leading, 20), []
    wanted = torch.autograd.grad(nn.functional.linear(x, weight, bias), (x, weight, bias), dy)
    out = product_linear(x, weight, bias, PLAIN)
    for got, exact in zip(torch.autograd.grad(out, (x, weight, bias), dy), wanted, strict=True):
        torch.testing.assert_close(got, exact)
    y = factored_linear(x, weight, Factored(received.append))
    y.backward(dy)
    assert y.shape == dy.shape
    torch.testing.assert_close(x.grad, wanted[0])
    torch.testing.assert_close(received[0].multiply(), wanted[1])


def test_work_is_saved_where_the_flops_say_so():
    assert saves_work(1024, 512, 1376, 128)
    assert not saves_work(1024, 512, 512, 400)
    assert saves_work(10, 512, 512, 400)


def tiles(factors, rows):
    return [Factors(factors.side[at : at + rows], factors.other[at : at + rows], factors.transposed)
            for at in range(0, len(factors.side), rows)]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_pieces_sum_up_what_will_be_asked_for(rows):
    torch.manual_seed(0)
    factors = Factors.of(torch.randn(50, 24).double(), torch.randn(50, 40).double())
    p, omega = torch.randn(24, 4).double(), torch.randn(40, 4).double()
    columns = slice(30, 40)
    both, whole = Pieces(p, omega, columns), Pieces()
    for each in tiles(factors, rows):
        both.add(each)
        whole.add(each)
    assert both.whole.value is None
    for ours, theirs in [
        (both.project(p), factors.project(p)),
        (both.sketch(omega), factors.sketch(omega)),
        (both.part(columns), factors.part(columns)),
        (whole.multiply(), factors.multiply()),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_one_tile_is_what_it_is_to_the_bit():
    factors = Factors.of(torch.randn(9, 8).bfloat16(), torch.randn(9, 12).bfloat16())
    pieces = Pieces()
    pieces.add(factors)
    assert torch.equal(pieces.multiply(), factors.multiply())


def test_receivers_are_called_once_at_the_end():
    torch.manual_seed(0)
    x, weight = torch.randn(10, 12, requires_grad=True), torch.randn(20, 12, requires_grad=True)
    received = []

    def hand_over(factors):
        gather("layer", factors, Pieces, received.append)

    with gathering(10):
        for at in range(0, 10, 4):
            part = x[at : at + 4].detach()
            assert rows_of(part) == 10
            factored_linear(part, weight, Factored(hand_over)).sum().backward()
        assert received == []
    (pieces,) = received
    torch.testing.assert_close(pieces.multiply(), torch.ones(10, 20).mT @ x.detach())
    assert rows_of(x) == 10
    factored_linear(x[:4], weight, Factored(hand_over)).sum().backward()
    assert isinstance(received[1], Factors)


def test_a_backward_that_fails_hands_nothing_over():
    received = []

    def break_off():
        with gathering(4):
            gather("layer", Factors.of(torch.ones(2, 3), torch.ones(2, 3)), Pieces, received.append)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_off()
    assert received == []
    assert rows_of(torch.ones(2, 3)) == 2


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("in_graph", [True, False])
def test_autograd_comes_to_a_weight_that_is_in_the_graph_or_without_which_there_is_none(needed, in_graph):
    x, weight = torch.randn(6, 5, requires_grad=needed), torch.nn.Parameter(torch.randn(4, 5))
    came, received = [], []
    weight.register_post_accumulate_grad_hook(came.append)
    factored_linear(x, weight, Factored(received.append, in_graph=in_graph)).sum().backward()
    assert len(received) == 1
    assert len(came) == (in_graph or not needed)
    assert weight.grad is None
    if needed:
        torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(6, 5))


@pytest.mark.parametrize("in_graph", [True, False])
def test_a_weight_that_was_written_to_before_its_backward_is_refused(in_graph):
    x, weight = torch.randn(6, 5, requires_grad=True), torch.nn.Parameter(torch.randn(4, 5))
    y = factored_linear(x, weight, Factored(lambda factors: None, in_graph=in_graph))
    with torch.no_grad():
        weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_under_autocast_the_layers_compute_what_linear_computes():
    torch.manual_seed(0)
    leaves = [[torch.randn(shape).requires_grad_() for shape in ((2, 7, 12), (20, 12), (20,))] for _ in range(3)]
    for each in leaves[1:]:
        for leaf, first in zip(each, leaves[0], strict=True):
            leaf.data.copy_(first.data)
    received = []
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours, biased = (
            nn.functional.linear(*leaves[0]),
            factored_linear(*leaves[1][:2], Factored(received.append)),
            product_linear(*leaves[2], PLAIN),
        )
        assert plain.dtype == ours.dtype == biased.dtype == torch.bfloat16
        torch.testing.assert_close(ours + leaves[1][2].detach().bfloat16(), plain, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(biased, plain, rtol=2e-2, atol=2e-2)
    dy = torch.randn_like(plain)
    for y in (plain, ours, biased):
        y.backward(dy)
    for a, b, c in zip(*leaves, strict=True):
        assert a.grad.dtype == torch.float32
        for grad in (b.grad, c.grad):
            if grad is not None:
                torch.testing.assert_close(grad, a.grad, rtol=2e-2, atol=2e-2)
    assert [leaf.grad is None for leaf in leaves[1]] == [False, True, True]
    assert received[0].side.dtype == received[0].other.dtype == torch.float32
    torch.testing.assert_close(received[0].multiply(), leaves[0][1].grad, rtol=2e-2, atol=2e-2)


def test_under_autocast_products_are_of_one_type():
    seen = []

    class Seen(Plain):
        def forward(self, x, weight, scales=None):
            seen.append((x.dtype, weight.dtype))
            return super().forward(x, weight)

    x, weight = torch.randn(7, 12), torch.randn(20, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        factored_linear(x, weight, Factored(lambda factors: None, products=Seen()))
        product_linear(x, weight, None, Seen())
    assert seen == 2 * [(torch.bfloat16, torch.bfloat16)]


def test_autocast_is_that_of_the_tensors_own_device():
    single, double, meta = torch.ones(2), torch.ones(2).double(), torch.ones(2, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert as_autocast(single).dtype == torch.bfloat16
        assert as_autocast(double) is double
        assert as_autocast(meta) is meta
        with torch.autocast("cpu", enabled=False):
            assert as_autocast(single) is single
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.float16)
        with FakeTensorMode():
            assert as_autocast(torch.empty(2, device="cuda")).dtype == torch.float16
        assert as_autocast(single) is single
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
