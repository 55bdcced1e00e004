"""Fused pieces of a forward: values and gradients of torch's path, and what a trace on `meta` sees of the kernels."""

import pytest
import torch

from galore.kernels.device import meta_stands_for
from galore.kernels.ops.fused import norm, rotary, swiglu


def tensors(*shapes, dtype=torch.float64, device="cpu"):
    return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]


def as_transformers(q, k, cos, sin):
    def turned(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]

    return turned(q), turned(k)


def exact_norm(x, w):
    return w * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


CASES = {
    "swiglu": (lambda g, u: (swiglu.swiglu(g, u),), lambda g, u: (torch.nn.functional.silu(g) * u,), [(3, 40)] * 2),
    "rotary": (
        lambda q, k: rotary.rotate(q, k, *ANGLES),
        lambda q, k: as_transformers(q, k, *ANGLES),
        [(2, 4, 5, 8), (2, 2, 5, 8)],
    ),
    "norm": (lambda x, w: (norm.rms_norm(x, w, 1e-5),), lambda x, w: (exact_norm(x, w),), [(2, 3, 24), (24,)]),
}
ANGLES = torch.randn(1, 5, 8), torch.randn(1, 5, 8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_torchs_path_against_float64(name, dtype, limit):
    mine, exact, shapes = CASES[name]
    given = tensors(*shapes, dtype=dtype)
    wide = [each.detach().double().requires_grad_() for each in given]
    found, wanted = mine(*given), exact(*wide)
    upstream = [torch.randn_like(each) for each in found]
    torch.autograd.backward(found, upstream)
    torch.autograd.backward(wanted, [each.double() for each in upstream])
    pairs = [*zip(found, wanted, strict=True), *((a.grad, b.grad) for a, b in zip(given, wide, strict=True))]
    for a, b in pairs:
        assert a.dtype == dtype
        assert float(((a.double() - b.double()).norm() / b.double().norm()).detach()) <= limit


@pytest.mark.parametrize("name", CASES)
def test_a_trace_sees_one_pass_each_way(name):
    mine, _, shapes = CASES[name]
    seen = []
    with meta_stands_for("cuda", lambda what, flops, nbytes: seen.append((what, nbytes))):
        found = mine(*tensors(*shapes, dtype=torch.bfloat16, device="meta"))
        torch.autograd.backward(found, [torch.empty_like(each) for each in found])
    assert len(seen) == 2 * len(found)
    assert all(nbytes > 0 for _, nbytes in seen)


def test_layouts_stay():
    q = torch.randn(2, 5, 4, 8).transpose(1, 2)
    turned, _ = rotary.rotate(q, q, *ANGLES)
    assert turned.stride() == q.stride()


def test_nothing_is_kept_of_swiglu_but_gate_and_up():
    kept = []
    gate, up = tensors((3, 40), (3, 40))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        swiglu.swiglu(gate, up)
    assert kept == [gate.data_ptr(), up.data_ptr()]


def test_rows_too_long_for_a_program_stay_with_torch():
    with meta_stands_for("cuda"):
        assert norm._case(torch.empty(2, norm.WIDEST + 1, device="meta")).against
        assert not norm._case(torch.empty(2, norm.WIDEST, device="meta")).against
