"""Whatever an operand's layout, dtype or size, an operation by Triton gives what it gives by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need the optional package triton")
import triton_interpreter
from kernel_machines import Interpreter

from galore.kernels.ops import compressed, dispatch, int8, sixteen
from galore.kernels.ops.direction import adam_direction_
from galore.kernels.ops.dispatch import Backend, BackendError
from galore.kernels.ops.fused import norm, rotary, softmax, swiglu
from galore.kernels.ops.matmul.codes import coded_product, row_codes, weight_codes
from galore.kernels.ops.matmul.int8 import INT8
from galore.kernels.ops.projection import lift_update_, project
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.moments import Moments

Found = tuple[Tensor, ...]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's path runs on the CPU, where it is asked for by name."""
    monkeypatch.setattr(dispatch, "unavailable", lambda device, e4m3=False: "")
    with triton_interpreter.installed(Interpreter().kernels):
        torch.manual_seed(0)
        yield


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "one number": lambda x: x[(slice(1),) * x.ndim].expand(x.shape),
    "one row": lambda x: x[:1].expand(x.shape),
    "slice": lambda x: torch.cat([x, x, x], dim=-1)[..., : x.shape[-1]],
    "every other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "windows": lambda x: x.as_strided(x.shape, (*x.stride()[:-2], *(1,) * min(2, x.ndim))),
}


def gradients(function: Callable[..., Tensor], given: list[Tensor], upstream: Tensor) -> Found:
    """The value and the gradients of tensors as they lie, for an upstream gradient as it lies."""
    leaves = [each.detach().requires_grad_() for each in given]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, upstream)


def rms_norm(by: Backend, x: Tensor, weight: Tensor, upstream: Tensor) -> Found:
    return gradients(lambda *of: norm.rms_norm(*of, 1e-6, by), [x, weight], upstream)


def gated(by: Backend, gate: Tensor, up: Tensor, upstream: Tensor) -> Found:
    return gradients(lambda *of: swiglu.swiglu(*of, by), [gate, up], upstream)


def turned(by: Backend, q: Tensor, cos: Tensor, sin: Tensor, upstream: Tensor) -> Found:
    return gradients(lambda q: rotary.rotate(q, q, cos, sin, by)[0], [q], upstream)


def loss(by: Backend, logits: Tensor, targets: Tensor) -> Found:
    z, losses, lse = logits.clone(), torch.empty(len(targets)), torch.empty(len(targets))
    softmax.softmax_minus_onehot_(z, targets, losses, lse, backend=by)
    return z, losses, lse


def direction(by: Backend, gradient: Tensor) -> Found:
    out, moments = torch.empty(gradient.shape), Moments(torch.zeros(gradient.shape), torch.zeros(gradient.shape))
    adam_direction_(out, gradient, moments, AdamRule(), step=1, backend=by)
    return out, moments.m, moments.v


def compress(by: Backend, p: Tensor) -> Found:
    return tuple(compressed.compress(p, 8, by).values()) + tuple(compressed.compress(p, 4, by).values())


def dequantize(by: Backend, codes: Tensor, scales: Tensor) -> Found:
    return (int8.dequantize(codes, scales, torch.float32, by),)


def in_sixteen(by: Backend, x: Tensor) -> Found:
    m, n = x.shape
    kept = torch.empty(m, n // 2, dtype=torch.uint8), torch.empty(m), torch.empty(n)
    sixteen.encode_(*kept, x, by)
    return kept[1:]  # codes differ on the edge between two values


def from_sixteen(by: Backend, codes: Tensor, rows: Tensor, columns: Tensor) -> Found:
    return (sixteen.decode(codes, rows, columns, by),)


def in_8_bits(by: Backend, x: Tensor, weight: Tensor, scales: Tensor) -> Found:
    a = row_codes(x, INT8, backend=by)
    forward = weight_codes(weight, scales, INT8, torch.float32, transposed=False, backend=by)
    across = weight_codes(weight, scales, INT8, torch.float32, transposed=True, backend=by)
    return a.codes, a.scales, coded_product(a, forward, INT8, torch.float32, by), across.dense()


def projected(by: Backend, p: Tensor, g: Tensor) -> Found:
    return (project(p, g, by).float(),)


def lifted(by: Backend, p: Tensor, n: Tensor) -> Found:
    w = torch.ones(len(p), n.shape[1])
    lift_update_(w, p, n, alpha=0.1, transposed=False, backend=by)
    return (w,)


def codes(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8)


CASES: dict[str, tuple[Callable[..., Found], Callable[[], list[Tensor]]]] = {
    "norm": (rms_norm, lambda: [torch.randn(2, 6, 32), torch.randn(32), torch.randn(2, 6, 32)]),
    "norm of a matrix": (rms_norm, lambda: [torch.randn(6, 32), torch.randn(32), torch.randn(6, 32)]),
    "swiglu": (gated, lambda: [torch.randn(2, 6, 32) for _ in range(3)]),
    "rotary": (
        turned,
        lambda: [torch.randn(2, 3, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 3, 5, 8)],
    ),
    "loss": (loss, lambda: [torch.randn(6, 40), torch.randint(40, (6,))]),
    "adam": (direction, lambda: [torch.randn(6, 40)]),
    "compress": (compress, lambda: [torch.randn(40, 12)]),
    "dequantize": (dequantize, lambda: [codes(6, 256), torch.rand(6, 2).bfloat16()]),
    "to sixteen": (in_sixteen, lambda: [torch.randn(6, 40)]),
    "from sixteen": (from_sixteen, lambda: [codes(6, 20).view(torch.uint8), torch.rand(6), torch.rand(40)]),
    "in 8 bits": (in_8_bits, lambda: [torch.randn(20, 256), codes(32, 256), torch.rand(32, 2).bfloat16()]),
    "project": (projected, lambda: [torch.randn(40, 8), torch.randn(40, 50)]),
    "lift": (lifted, lambda: [torch.randn(40, 8), torch.randn(8, 50)]),
}


def near(found: Found, wanted: Found) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_each_operand_in_each_layout(case: str, layout: str, interpreted: None) -> None:
    function, make = CASES[case]
    for place in range(len(make())):
        given = make()
        if case == "loss" and place == 0:  # they are overwritten where they are
            continue
        given[place] = LAYOUTS[layout](given[place])
        near(function("triton", *given), function("torch", *(each.contiguous() for each in given)))


def test_what_is_overwritten_where_it_is_lies_together_or_stays_with_torch(interpreted: None) -> None:
    logits, targets, kept = torch.randn(40, 6).mT, torch.randint(40, (6,)), torch.empty(6)
    with pytest.raises(BackendError, match="do not lie one behind the other"):
        softmax.softmax_minus_onehot_(logits, targets, kept, kept.clone(), backend="triton")
    w, p, n = torch.randn(50, 40).mT, torch.randn(40, 8), torch.randn(8, 50)
    with pytest.raises(BackendError, match="do not lie one behind the other"):
        lift_update_(w, p, n, alpha=0.1, backend="triton")


FLOATING = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("kept", FLOATING, ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_p_is_multiplied_in_the_weights_dtype(dtype: torch.dtype, kept: torch.dtype, interpreted: None) -> None:
    p, n, w = torch.randn(64, 16).to(kept), torch.randn(16, 96), torch.randn(64, 96).to(dtype)
    ours, theirs = w.clone(), w.clone()
    lift_update_(ours, p, n, alpha=0.1, backend="triton")
    lift_update_(theirs, p, n, alpha=0.1, backend="torch")
    limit = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit)
    exact = p.to(dtype).double().mT @ w.double()
    torch.testing.assert_close(project(p, w, "triton").double(), exact, rtol=1e-4, atol=1e-4)


EMPTY: dict[str, list[list[tuple[int, ...]]]] = {
    "norm": [[(2, 0, 32), (32,), (2, 0, 32)]],
    "swiglu": [[(2, 0, 32)] * 3, [(2, 3, 0)] * 3],
    "rotary": [[(2, 0, 5, 8), (1, 5, 8), (1, 5, 8), (2, 0, 5, 8)], [(2, 3, 0, 8), (1, 0, 8), (1, 0, 8), (2, 3, 0, 8)]],
    "adam": [[(0, 5)]],
    "compress": [[(0, 4)]],
    "to sixteen": [[(0, 4)], [(4, 0)]],
    "project": [[(0, 4), (0, 6)], [(5, 0), (5, 6)], [(5, 4), (5, 0)]],
    "lift": [[(0, 4), (4, 6)], [(5, 0), (0, 6)], [(5, 4), (4, 0)]],
}


@pytest.mark.parametrize(("case", "shapes"), [(case, shapes) for case, of in EMPTY.items() for shapes in of])
def test_of_nothing_comes_nothing_or_zeros(case: str, shapes: list[tuple[int, ...]], interpreted: None) -> None:
    given = [torch.randn(shape) for shape in shapes]
    found = CASES[case][0]("triton", *given)
    near(found, CASES[case][0]("torch", *given))
    assert all(bool(each.isfinite().all()) for each in found)


def test_no_tokens_in_8_bits(interpreted: None) -> None:
    given: list[Any] = [torch.randn(0, 256), codes(32, 256), torch.rand(32, 2).bfloat16()]
    near(in_8_bits("triton", *given), in_8_bits("torch", *given))
