"""Project and lift against float64, error to error, both sides, ragged shapes, fp32 and bf16."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from galore.kernels.ops.projection import PANEL, lift_update_, orient, project
from galore.kernels.reference import operations as reference
from galore.kernels.storage import rounding
from galore.kernels.storage.rounding import RoundingNoise, read_compensated

SHAPES = [(16, 40), (40, 16), (24, 24), (1, 7), (513, 300), (300, 1025)]


def operands(shape, dtype, rank=5):
    torch.manual_seed(0)
    short, long = sorted(shape)
    rank = min(rank, short)
    p = torch.linalg.qr(torch.randn(short, rank)).Q.to(dtype)
    return torch.randn(shape, dtype=dtype), p, torch.randn(rank, long, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_project_is_as_exact_as_torch(shape, dtype):
    g, p, _ = operands(shape, dtype)
    exact = reference.project(p.double(), reference.orient(g).double())
    plain = (p.mT @ reference.orient(g)).double()
    error = (project(p, orient(g)).double() - exact).norm()
    assert error <= (plain - exact).norm() + 1e-6 * exact.norm()


@pytest.mark.parametrize("convention", ["paper", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_lift_update_against_float64(shape, dtype, convention):
    w, p, n = operands(shape, dtype)
    settings = {"lr": 0.1, "scale": 0.25, "weight_decay": 0.3}
    exact = reference.lift_update(
        reference.orient(w).double(), p.double(), n.double(), **settings, convention=convention
    )
    lift_update_(w, p, n, alpha=-0.1 * 0.25, decay=1 - 0.1 * 0.3, decay_after=convention == "reference")
    ulp = 2**-8 if dtype == torch.bfloat16 else 2**-22
    torch.testing.assert_close(reference.orient(w).double(), exact, rtol=2 * ulp, atol=2 * ulp)


@pytest.mark.parametrize("shape", SHAPES)
def test_stochastic_lift_is_unbiased_and_repeatable(shape):
    w, p, n = operands(shape, torch.bfloat16)
    exact = reference.lift_update(reference.orient(w).double(), p.double(), n.double(), 0.001, 0.25, 0.0)
    copies = []
    for step in range(200):
        copy = w.clone()
        lift_update_(copy, p, n, alpha=-0.001 * 0.25, noise=RoundingNoise(0, step, w.device), tensor=3)
        copies.append(copy)
    again = w.clone()
    lift_update_(again, p, n, alpha=-0.001 * 0.25, noise=RoundingNoise(0, 0, w.device), tensor=3)
    assert torch.equal(again, copies[0])
    moved = torch.stack(copies).double().mean(0) - w.double()
    intended = reference.orient(exact).reshape(w.shape) if shape[0] < shape[1] else exact.mT
    intended = intended - w.double()
    kept = (moved * intended).sum() / intended.square().sum()
    tolerance = 6 * 2**-8 * w.double().norm() / intended.norm() / 200**0.5 / w.numel() ** 0.5 + 0.02
    assert abs(kept - 1) < max(tolerance, 0.05) * 3


class Rows:
    """A dense term (m, n) that hands out rows and remembers which."""

    def __init__(self, whole):
        self.whole, self.asked = whole, []

    def __call__(self, first, last):
        self.asked.append((first, last))
        return self.whole[first:last]


def dense_term(shape, dtype, transposed):
    """(m, n); `transposed` as the gradient of an oriented weight would lie in memory."""
    torch.manual_seed(1)
    return torch.randn(shape[::-1], dtype=dtype).mT if transposed else torch.randn(shape, dtype=dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setitem(rounding.BLOCK, "cpu", 1 << 10)
    return 1 << 10


@pytest.mark.parametrize("with_p", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("dense_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_dense_term_against_float64(small_blocks, shape, dtype, dense_dtype, transposed, with_p):
    w, p, n = operands(shape, dtype)
    rows = Rows(dense_term(shape, dense_dtype, transposed))
    before = rows.whole.clone()
    lifted = p.double() @ n.double() if with_p else torch.zeros(sorted(shape), dtype=torch.float64)
    exact = 0.9 * orient(w).double() - 0.03 * (lifted + orient(rows.whole).double())
    lift_update_(w, p if with_p else None, n if with_p else None, alpha=-0.03, decay=0.9, dense=rows)
    ulp = 2**-8 if dtype == torch.bfloat16 else 2**-22
    torch.testing.assert_close(orient(w).double(), exact, rtol=ulp, atol=ulp * 0.1)
    assert torch.equal(rows.whole, before)
    assert [first for first, _ in rows.asked] == [0, *[last for _, last in rows.asked[:-1]]]
    assert rows.asked[-1][1] == shape[0]
    assert all((last - first) * shape[1] <= max(small_blocks, shape[1]) for first, last in rows.asked)


@pytest.mark.parametrize("decay_after", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_compensated_weight_takes_a_dense_term_as_an_fp32_one_does(small_blocks, shape, decay_after):
    w, _, _ = operands(shape, torch.bfloat16)
    single, compensation = w.float(), torch.zeros(w.numel(), dtype=torch.int16)
    for seed in range(5):
        rows = Rows(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        settings = {"alpha": -1e-5, "decay": 0.999, "decay_after": decay_after, "dense": rows}
        lift_update_(single, None, None, **settings)
        lift_update_(w, None, None, **settings, compensation=compensation)
    assert torch.equal(read_compensated(w, compensation.view(shape)), single)


@pytest.mark.parametrize("compensation_dtype", [torch.int16, torch.int8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_compensated_lift_against_float64(small_blocks, shape, compensation_dtype):
    w, p, n = operands(shape, torch.bfloat16)
    start, step = orient(w).double(), 1e-4 * (p.double() @ n.double())
    compensation = torch.zeros(shape, dtype=compensation_dtype)
    for number in range(25):
        noise = RoundingNoise(0, number, w.device)
        lift_update_(w, p, n, alpha=1e-4, noise=noise, tensor=1, compensation=compensation)
    error = orient(read_compensated(w, compensation)).double() - start - 25 * step
    lost = 2**-8 if compensation_dtype == torch.int16 else 2**-8 + 25**0.5 * 2**-15 * start.norm() / (25 * step).norm()
    assert error.norm() <= lost * (25 * step).norm()


class LargestNew(TorchDispatchMode):
    """The most elements of any tensor that is made inside."""

    def __init__(self, *known):
        super().__init__()
        self.known, self.elements = {t.untyped_storage().data_ptr() for t in known}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compensated", [True, False])
@pytest.mark.parametrize("shape", [(300, 513), (513, 300)])
def test_a_lift_makes_no_matrix_of_the_weights_size(small_blocks, shape, compensated, dtype):
    w, p, n = operands(shape, dtype)
    compensation = torch.zeros(shape, dtype=torch.int16) if compensated and dtype == torch.bfloat16 else None
    rows, known = Rows(torch.randn(shape)), [] if compensation is None else [compensation]
    mode = LargestNew(w, p, n, rows.whole, *known)
    with mode:
        lift_update_(w, p, n, alpha=0.1, compensation=compensation, dense=rows)
    assert 0 < mode.elements <= max(PANEL["cpu"] * small_blocks, p.numel(), n.numel()) < w.numel()


def test_a_lift_on_meta():
    w, p, n = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((30, 70), (30, 4), (4, 70)))
    compensation = torch.empty(30, 70, dtype=torch.int16, device="meta")
    dense = Rows(torch.empty(30, 70, device="meta"))
    lift_update_(w, p, n, alpha=0.1, decay=0.9, compensation=compensation, dense=dense)
    assert dense.asked == [(0, 30)]
