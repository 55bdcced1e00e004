"""R = Pᵀ G in every storage of P, either side, split or not, added to a sum or not: as near to float64 as torch."""

import pytest
import torch
from kernel_machines import assert_as_near, basis, gradient, kept_matrix, relative_error

from galore.kernels.linear import Factors
from galore.kernels.ops.compressed import as_dense
from galore.kernels.reference import operations as reference

SHAPES = [(64, 128, 32), (50, 90, 20), (33, 130, 4)]  # a, b, r
EPS = 2e-6  # fp32 sums in another order


def projected(machine, p, g, *, split=1, out=None, dtype=None):
    k = machine.kernels
    out = torch.full((p.shape[1], g.shape[1]), torch.nan) if out is None else out
    accumulate = not out.isnan().any()
    tile = k.tile.Tile(32, 64, 32, 4, 3, split)
    machine.run(k.product.product_plan(out, k.product.Operand.of(p).mT, g, tile, accumulate=accumulate, dtype=dtype))
    return out


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_near_to_float64_as_torch(machine, shape, dtype, split, transposed):
    a, b, r = shape
    p, g = basis(a, r, dtype), gradient(a, b, transposed, dtype)
    exact = reference.project(p.double(), g.double())
    by_torch = reference.project(p.float(), g.float())
    assert_as_near(projected(machine, p, g, split=split), by_torch, exact, eps=EPS)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_codes_of_p_multiply_as_they_read(machine, shape, transposed, dtype, bits):
    a, b, r = shape
    p, g = kept_matrix(basis(a, r, torch.float32), bits), gradient(a, b, transposed, dtype)
    exact = reference.project(as_dense(p, dtype).double(), g.double())
    k = machine.kernels
    out = torch.empty(r, b)
    machine.run(k.product.product_plan(out, k.product.Operand.of(p).mT, g, k.tile.Tile(32, 64, 32, 4, 3)))
    assert relative_error(out, exact) <= EPS


@pytest.mark.parametrize("split", [1, 2])
def test_adds_to_the_sum_of_earlier_micro_batches(machine, split):
    p, g = basis(50, 20, torch.bfloat16), gradient(50, 90, True, torch.bfloat16)
    before = torch.randn(20, 90)
    exact = before.double() + reference.project(p.double(), g.double())
    assert relative_error(projected(machine, p, g, split=split, out=before.clone()), exact) <= EPS


def test_the_backward_of_a_linear_layer_projects_its_factors(machine):
    """R = (δ P)ᵀ x in two products, without the m×n gradient."""
    k, (rows, m, n, r) = machine.kernels, (70, 48, 96, 16)
    x, dy, p = torch.randn(rows, n).bfloat16(), torch.randn(rows, m).bfloat16(), basis(m, r, torch.bfloat16)
    factors = Factors.of(x, dy)
    exact = reference.project_factors(p.double(), factors.side.double(), factors.other.double())
    thin, out, tile = torch.empty(rows, r, dtype=torch.bfloat16), torch.zeros(r, n), k.tile.Tile(32, 32, 32, 4, 3)
    machine.run(k.product.product_plan(thin, factors.side, p, tile))
    machine.run(k.product.product_plan(out, thin.mT, factors.other, tile, accumulate=True))
    assert_as_near(out, factors.project(p), exact, eps=EPS)
