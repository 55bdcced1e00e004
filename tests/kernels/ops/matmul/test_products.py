"""Both products of a linear layer in 8 bits against float64: how near one is, and that the mean of many has no bias."""

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.kernels.linear import Factors, product_linear
from galore.kernels.ops.int8 import dequantize, quantize
from galore.kernels.ops.matmul import codes, draws, format, fp8, int8, products
from galore.kernels.ops.matmul.formats import FORMATS
from galore.kernels.ops.matmul.products import EightBit, Inputs
from galore.kernels.storage.coded import WIDTH, padded

# Relative to the norm of the exact product: a row's largest number is some 3 to 5 deviations, its step 1/127 of that;
# e4m3 has 3 bits behind the leading one. Rounded by chance, errors are up to √2 of those to nearest.
FORWARD = {"int8": 0.015, "fp8": 0.04}
GRADIENT = {"int8": 0.045, "fp8": 0.06}
MANY = 48
EACH = pytest.mark.parametrize("name", FORMATS)
SHAPES = pytest.mark.parametrize(("m", "n"), [(96, 256), (80, 228), (33, 91)])  # groups of 128, of 114, none


def error(x, exact):
    return float((x.double() - exact).norm() / exact.norm())


def layer(m, n, coded):
    """(weight, scales, the numbers they stand for in float64)."""
    w = torch.randn(m, n) * 0.02 * torch.randn(m, 1).exp()
    if not coded:
        return w.bfloat16(), None, w.bfloat16().double()
    held, scales = quantize(w)
    return held, scales, dequantize(held.double(), scales.double(), torch.float64, "torch")


@EACH
@SHAPES
@pytest.mark.parametrize("coded", [False, True])
def test_forward_and_input_gradient_against_float64(name, m, n, coded):
    torch.manual_seed(0)
    weight, scales, exact = layer(m, n, coded)
    x, dy = torch.randn(2, 30, n).bfloat16(), (torch.randn(2, 30, m) * torch.randn(2, 30, m).exp()).bfloat16()
    products = EightBit(FORMATS[name], draws.Draws(0))
    y, dx = products.forward(x, weight, scales), products.input_gradient(dy, weight, scales)
    assert (y.shape, dx.shape, y.dtype) == ((2, 30, m), (2, 30, n), torch.bfloat16)
    assert error(y, x.double() @ exact.mT) <= FORWARD[name]
    assert error(dx, dy.double() @ exact) <= GRADIENT[name]


@EACH
@pytest.mark.parametrize("coded", [False, True])
def test_a_vector_is_one_row(name, coded):
    torch.manual_seed(0)
    weight, scales, _ = layer(96, 256, coded)
    x, dy = torch.randn(256).bfloat16(), torch.randn(96).bfloat16()
    found = []
    for one in (lambda each: each, lambda each: each[None]):
        products = EightBit(FORMATS[name], draws.Draws(0))
        found.append((products.forward(one(x), weight, scales), products.input_gradient(one(dy), weight, scales)))
    for of_vector, of_row in zip(*found, strict=True):
        assert torch.equal(of_vector[None], of_row)


@EACH
@pytest.mark.parametrize("coded", [False, True])
def test_the_input_gradient_has_no_bias_and_nearest_would_have_one(name, coded):
    """The error of the mean falls as 1/√MANY, as it does only if the expectation is the exact gradient."""
    torch.manual_seed(0)
    weight, scales, exact = layer(64, 96, coded)
    dy = torch.randn(20, 64) * torch.randn(20, 64).mul(2).exp()  # most entries are far below a row's largest
    products = EightBit(FORMATS[name], draws.Draws(0))
    exact = dy.double() @ exact
    found = [products.input_gradient(dy, weight, scales).double() for _ in range(MANY)]
    one = sum(error(each, exact) for each in found) / MANY
    assert error(sum(found) / MANY, exact) <= 1.5 * one / MANY**0.5
    nearest = [codes.row_codes(dy, FORMATS[name]).dense(torch.float64)] * 2
    assert torch.equal(*nearest)
    chance = [codes.row_codes(dy, FORMATS[name], draws.Draws(0).of(k)).dense(torch.float64) for k in range(MANY)]
    assert error(sum(chance) / MANY, dy.double()) < error(nearest[0], dy.double())


def test_int8_codes_are_read_as_they_are_where_their_groups_lie_along_the_sum():
    held, scales, _ = layer(64, 256, coded=True)
    read = codes.weight_codes(held, scales, int8.INT8, torch.bfloat16, transposed=False)
    assert read.codes is held
    assert read.scales is scales
    across = codes.weight_codes(held, scales, int8.INT8, torch.bfloat16, transposed=True)
    assert across.codes.shape == (256, 64)
    odd, of_odd, _ = layer(8, 228, coded=True)  # groups of 114, at no multiple of 16 bytes
    assert codes.weight_codes(odd, of_odd, int8.INT8, torch.bfloat16, transposed=False).size == WIDTH


def test_the_gradient_of_a_weight_is_multiplied_as_ever():
    torch.manual_seed(0)
    x, w, b = (torch.randn(*s).bfloat16().requires_grad_() for s in ((5, 32), (48, 32), (48,)))
    y = product_linear(x, w, b, EightBit(int8.INT8, draws.Draws(0)))
    dy = torch.randn_like(y)
    y.backward(dy)
    assert torch.equal(w.grad, Factors.of(x.detach(), dy).multiply())
    assert torch.equal(b.grad, dy.sum(0))
    frozen = w.detach()
    y = product_linear(x, frozen, None, EightBit(fp8.FP8, draws.Draws(0)))
    assert y.grad_fn.saved_tensors[0] is None


def test_what_is_rounded_by_chance_is_a_function_of_seed_step_layer_and_how_often_it_was_asked():
    clock = [3]
    asked = draws.Draws(7, lambda: clock[0])
    first, second, other = asked.of(1), asked.of(1), asked.of(2)
    assert len({each.words for each in (first, second, other, first.part(1))}) == 4
    cpu = torch.device("cpu")
    before = first.window(0, 50, cpu).clone()
    asked.forget()
    assert asked.of(1).words == first.words
    assert torch.equal(asked.of(1)._replace(number=first.number).window(0, 50, cpu), before)
    clock[0] = 4
    assert not torch.equal(first.window(0, 50, cpu), before)


def test_a_row_that_is_not_finite_is_not_finite_afterwards():
    products = EightBit(int8.INT8, draws.Draws(0))
    x = torch.ones(4, 16)
    x[2, 3] = torch.nan
    y = products.forward(x, torch.ones(32, 16))
    assert y.isfinite().all(1).tolist() == [True, True, False, True]


@EACH
def test_on_a_card_that_is_not_here_all_is_counted(name):
    """What the kernels take of memory and time: codes and scales of both operands, one product in the format's name."""
    seen = []
    with meta_stands_for("cuda", lambda *what: seen.append(what)):
        x, w = (torch.empty(s, 100, dtype=torch.bfloat16, device="meta") for s in (64, 50))
        y = EightBit(FORMATS[name], draws.Draws(0)).forward(x, w)
    assert y.shape == (64, 50)
    assert [what for what, _, _ in seen] == ["encode", "encode", f"{name} product"]
    flops, nbytes = seen[-1][1:]
    assert flops == 2 * 64 * 50 * 100
    assert nbytes == (64 + 50) * (100 + 4) + 64 * 50 * 2
    assert padded(100) == 112


def test_the_middle_of_each_step_of_chance():
    """So that the mean over all bits is 1/2 exactly."""
    assert float(format.uniform(torch.arange(1 << 16)).double().mean()) == 0.5


def test_a_number_rounded_by_chance_becomes_one_of_its_two_neighbours():
    torch.manual_seed(0)
    value = torch.cat([torch.rand(4096).mul_(16).sub_(8).exp2_(), torch.rand(256) * 2.0**-6])
    got = fp8.encode(value.clone(), torch.randint(0, 1 << 16, value.shape, dtype=torch.int32)).float()
    step = torch.exp2(value.log2().floor().clamp_min(-6) - 3)
    assert ((got - value).abs() < step).all()


def test_layers_of_one_input_make_its_codes_once_and_forget_them(monkeypatch):
    made = []
    own = products.row_codes
    monkeypatch.setattr(products, "row_codes", lambda x, *more, **named: made.append(x) or own(x, *more, **named))
    form, inputs, weight = FORMATS["int8"], Inputs(), torch.randn(48, 32).bfloat16()
    layers = [EightBit(form, draws.Draws(0), number, inputs=inputs, users=3) for number in range(3)]
    alone = EightBit(form, draws.Draws(0))
    x = torch.randn(2, 20, 32, requires_grad=True).to(torch.bfloat16)
    found = [product_linear(x, weight, None, layer) for layer in layers]
    assert len(made) == 1
    assert inputs._codes is None
    assert all(torch.equal(each, alone.forward(x, weight)) for each in found)


def test_an_input_that_was_changed_or_is_another_is_coded_anew():
    form, inputs, weight = FORMATS["int8"], Inputs(), torch.randn(48, 32).bfloat16()
    shared, alone = EightBit(form, draws.Draws(0), inputs=inputs, users=9), EightBit(form, draws.Draws(0))
    x = torch.randn(20, 32).bfloat16()
    for change in (lambda: x, lambda: x.mul_(3), lambda: x.clone()[:7], lambda: torch.randn(20, 32).bfloat16()):
        given = change()
        assert torch.equal(shared.forward(given, weight), alone.forward(given, weight))
