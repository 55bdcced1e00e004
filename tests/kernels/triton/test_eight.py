"""Products in 8 bits: codes as torch's path makes them, roundings by chance as the statement says, sums as float64's."""

import pytest
import torch
from kernel_machines import relative_error

from galore.kernels.ops.int8 import quantize
from galore.kernels.ops.matmul.codes import regrouped, row_codes
from galore.kernels.ops.matmul.draws import Draws
from galore.kernels.ops.matmul.formats import FORMATS
from galore.kernels.reference.operations import random_bits
from galore.kernels.storage.coded import WIDTH, Coded, empty_codes, padded
from galore.kernels.storage.layout import group_size

EPS = 3e-7  # fp32 sums in another order
SHAPES = [(8, 64), (9, 50)]
EACH = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def rows(m, n):
    return torch.randn(m, n) * torch.randn(m, 1).exp()


def encoded(machine, form, x, words=None):
    """The kernel's codes of x, over the scales of torch's path."""
    out = row_codes(x, form)
    codes = empty_codes(*x.shape, x, form.dtype)
    codes.copy_(torch.ones_like(codes.float()))
    machine.run(machine.kernels.eight.encode_plan(out._replace(codes=codes), x, words))
    return out._replace(codes=codes)


@EACH
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_to_nearest_are_those_of_torch(machine, form, shape, across):
    x = rows(*shape).bfloat16()
    x = x.mT.contiguous().mT if across else x
    assert torch.equal(encoded(machine, form, x).codes.float(), row_codes(x, form).codes.float())


@EACH
def test_codes_by_chance_are_those_of_the_statement(machine, form):
    """⌊v / step + u⌋ step, with u of the hash that every kernel takes."""
    x, words = rows(*SHAPES[1]), (123, -77)
    found = encoded(machine, form, x, words)
    bits = random_bits(torch.arange(x.numel()), *words).view(x.shape).int()
    assert torch.equal(found.codes.float(), form.encode(x / found.scales, bits).float())


@EACH
def test_rows_are_filled_up_with_zeros(machine, form):
    found = encoded(machine, form, rows(9, 50))
    behind = found.codes.as_strided((9, padded(50)), (padded(50), 1))[:, 50:].float()
    assert behind.numel()
    assert not behind.any()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(40, 228), (130, 32)])
def test_groups_made_anew_are_those_of_torch(machine, shape, transposed):
    codes, scales = quantize(rows(*shape))
    held = Coded(codes, scales, group_size(shape[1]))
    expected = regrouped(held, transposed)
    m, n = expected.codes.shape
    out = Coded(empty_codes(m, n, codes, torch.int8), torch.empty(-(-n // WIDTH), m), WIDTH)
    machine.run(machine.kernels.eight.regroup_plan(out, held, transposed, None))
    assert torch.equal(out.codes, expected.codes)
    torch.testing.assert_close(out.scales.mT, expected.scales)


def test_a_scale_of_nan_is_one_in_what_is_made_anew_of_it(machine):
    codes, scales = quantize(rows(8, 128))
    scales[2] = torch.nan
    out = Coded(empty_codes(8, 128, codes, torch.int8), torch.empty(-(-128 // WIDTH), 8), WIDTH)
    held = Coded(codes, scales, group_size(128))
    machine.run(machine.kernels.eight.regroup_plan(out, held, False, None))
    assert torch.equal(out.scales.isnan(), regrouped(held, False).scales.mT.isnan())
    assert bool(out.scales[:, 2].isnan().all())


@pytest.mark.parametrize("kind", ["int8 rows", "int8 groups", "int8 small groups", "fp8 rows"])
@pytest.mark.parametrize("shape", [(32, 32, 256), (33, 40, 208)])
def test_products_against_float64(machine, kind, shape):
    m, n, k = shape
    form = FORMATS[kind.partition(" ")[0]]
    a, w = row_codes(rows(m, k), form), rows(n, k)
    if kind.endswith("rows"):
        b = row_codes(w, form)
    else:
        size = WIDTH if kind == "int8 groups" else 16 if k % 48 else 48
        parts = [row_codes(part.contiguous(), form) for part in w.split(size, dim=1)]
        codes, scales = (torch.cat([each[which] for each in parts], 1) for which in (0, 1))
        b = Coded(empty_codes(n, k, codes, codes.dtype), scales.bfloat16(), size)
        b.codes.copy_(codes)
    tile = machine.kernels.tile.Tile(32, 32, 128, 4, 2)
    out = torch.full((m, n), torch.nan)
    machine.run(machine.kernels.eight.coded_product_plan(out, a, b, tile))
    exact = a.dense(torch.float64) @ b.dense(torch.float64).mT
    assert relative_error(out, exact) <= EPS


def test_what_is_not_finite_makes_its_row_of_the_product_so():
    x = torch.randn(3, 16)
    x[1, 2] = torch.inf
    assert row_codes(x, FORMATS["int8"], Draws(0).of(0)).scales.isfinite().flatten().tolist() == [True, False, True]
