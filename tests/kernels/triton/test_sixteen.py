"""Momenta in sixteen values: the kernels' sizes and codes beside torch's and the float64 statement, to the last row and column."""

import re

import pytest
import torch
from kernel_machines import assert_as_near, relative_error

from galore.kernels.ops.sixteen import CHUNK
from galore.kernels.predict import catalogue
from galore.kernels.predict.compiled import compile_launch
from galore.kernels.reference.operations import quantize_rows_and_columns
from galore.kernels.storage import sixteen

EPS = 3e-7  # fp32 sums in another order
EDGE = 1e-5  # of a number of the size 1 from what lies between two values: nearer, either is right
SHAPES = [(1, 6), (130, 70), (3, 1030)]  # rows and columns of a tile and some more, two chunks of rows
LAYOUTS = pytest.mark.parametrize("across", [False, True], ids=["along", "across"])


def momentum(m, n):
    return torch.randn(m, n) * torch.randn(m, 1).exp() * torch.randn(n).exp() * 1e-3


def empty(m, n):
    return torch.full((m, n // 2), 99, dtype=torch.uint8), torch.full((m,), torch.nan), torch.full((n,), torch.nan)


def stored(machine, x):
    """What the kernels keep of x."""
    (m, n), kept = x.shape, empty(*x.shape)
    machine.run(machine.kernels.quantize.to_sixteen_plan(*kept, x, torch.full((-(-m // CHUNK), n), torch.nan)))
    return kept


def by_torch(x):
    kept = empty(*x.shape)
    sixteen.quantize_(*kept, x)
    return kept


def read(machine, kept):
    out = torch.full((len(kept[1]), len(kept[2])), torch.nan)
    machine.run(machine.kernels.quantize.from_sixteen_plan(out, *kept))
    return out


def unpacked(codes):
    return torch.stack([codes & 15, codes >> 4], 2).view(len(codes), -1).int()


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_and_codes_against_float64(machine, shape, across):
    x = momentum(*shape)
    x = x.mT.contiguous().mT if across else x
    bounds = sixteen.bounds(torch.device("cpu")).double()
    values = sixteen.values(torch.device("cpu")).double()
    exact, rows, columns = quantize_rows_and_columns(x.double().contiguous(), values)
    kept, other = stored(machine, x), by_torch(x)
    for mine, theirs, wanted in zip(kept[1:], other[1:], (rows, columns), strict=True):
        assert_as_near(mine, theirs, wanted, eps=EPS)
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-6, atol=0)
    scaled = x.double() / rows[:, None] / columns
    found = unpacked(kept[0])
    for codes in (exact.int(), unpacked(other[0])):
        elsewhere = found != codes
        edge = bounds[torch.minimum(found, codes)[elsewhere]]
        assert bool(((scaled[elsewhere] - edge).abs() <= EDGE).all())
        assert int((found - codes).abs().max()) <= 1


def test_many_chunks_of_rows_are_added_up(machine):
    """More than a tile holds at a time."""
    partial, columns = torch.rand(37, 10), torch.full((10,), torch.nan)
    codes, rows, x = torch.zeros(74, 5, dtype=torch.uint8), torch.ones(74), torch.ones(74, 10)
    plan = machine.kernels.quantize.to_sixteen_plan(codes, rows, columns, x, partial)
    machine.run(plan[2:3])
    torch.testing.assert_close(columns, (partial.double().sum(0) / 74).sqrt().float(), rtol=EPS, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_read_as_torch_reads_them(machine, shape):
    kept = by_torch(momentum(*shape))
    wanted = torch.full(shape, torch.nan)
    sixteen.dequantize_(wanted, *kept)
    assert torch.equal(read(machine, kept), wanted)


def test_every_value_and_both_sides_of_every_edge(machine):
    """With sizes of 1, which are given to the kernel that finds codes."""
    values, edges = (of(torch.device("cpu")) for of in (sixteen.values, sixteen.bounds))
    x = torch.cat([values, edges, *(torch.nextafter(edges, torch.tensor(end)) for end in (9.0, -9.0)), edges[:3]])
    x = x[:, None].repeat(1, 8).view(16, -1)
    rows, columns = torch.ones(len(x)), torch.ones(x.shape[1])
    codes = torch.zeros(len(x), x.shape[1] // 2, dtype=torch.uint8)
    partial = torch.zeros(1, x.shape[1])
    machine.run(machine.kernels.quantize.to_sixteen_plan(codes, rows, columns, x, partial)[-1:])
    assert torch.equal(unpacked(codes), torch.bucketize(x, edges, out_int32=True))


@pytest.mark.parametrize("exponent", [-37, -30, 30, 38])
def test_squares_stay_in_range_however_small_or_large_the_numbers_are(machine, exponent):
    x = torch.randn(6, 32)
    x = (x.double() / x.abs().max() * 10.0**exponent).float()
    back = read(machine, stored(machine, x))
    assert relative_error(back, x) < 0.15


def test_rows_of_very_different_size_keep_theirs(machine):
    """Squares of ratios to the largest number of the matrix would be 0 for most of them."""
    x = torch.randn(8, 64) * torch.logspace(-30, 5, 8)[:, None]
    relative = (read(machine, stored(machine, x)).double() - x).norm(dim=1) / x.double().norm(dim=1)
    assert float(relative.max()) < 0.2


def test_rows_and_columns_of_zeros_stay_so(machine):
    x = momentum(9, 20)
    x[3], x[:, 5] = 0, 0
    back = read(machine, stored(machine, x))
    assert not back[3].any()
    assert not back[:, 5].any()
    assert bool(back.isfinite().all())


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_lost(machine, bad):
    x = momentum(4, 8)
    x[2, 3] = bad
    other = torch.full(x.shape, torch.nan)
    sixteen.dequantize_(other, *by_torch(x))
    assert not other.isfinite().any()
    assert not read(machine, stored(machine, x)).isfinite().any()


def test_no_sum_depends_on_which_program_is_done_first():
    """What is added into memory by many programs at once would be."""
    for launch in dict(catalogue.cases())["to sixteen along ragged"]:
        assert not re.search(r"\b(atom|red)\.", compile_launch(launch).ptx)
