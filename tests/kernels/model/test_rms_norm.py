"""RMSNorm against transformers' arithmetic, both measured against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.model import rms_norm as module
from galore.kernels.model.rms_norm import rms_norm

EPS = 1e-5


def plain(x: Tensor, weight: Tensor) -> Tensor:
    """What LlamaRMSNorm does: normalize in fp32, round, then multiply by the gain."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)


def output_and_gradients(function, x: Tensor, weight: Tensor) -> list[Tensor]:
    x, weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    y = function(x, weight)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), upstream)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(shape[-1])
    return (3 * torch.randn(shape, generator=draw)).to(dtype), (1 + torch.randn(shape[-1], generator=draw)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 33, 96), (7, 5), (50, 1), (2, 3, 4, 8)])
@pytest.mark.parametrize("block", [1, 300, 2**19])
def test_error_is_no_larger_than_transformers(monkeypatch, shape, dtype, block):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    given = inputs(shape, dtype)
    exact = output_and_gradients(plain, *(t.double() for t in given))
    ours = output_and_gradients(lambda x, w: rms_norm(x, w, EPS), *given)
    for name, mine, theirs, truth in zip(
        ["y", "x", "w"], ours, output_and_gradients(plain, *given), exact, strict=True
    ):
        error, allowed = ((t.double() - truth).norm() / truth.norm() for t in (mine, theirs))
        assert error <= 1.1 * allowed + 2e-6, name
        assert mine.dtype == dtype


def test_the_input_is_not_written_and_only_row_factors_are_kept():
    x, weight = inputs((6, 16), torch.float32)
    before, saved = x.clone(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        rms_norm(x.requires_grad_(), weight, EPS).sum().backward()
    assert torch.equal(x, before)
    assert sorted(saved) == [6, 16, 96]


def test_transposed_input_and_gradient():
    x, weight = inputs((4, 6, 16), torch.bfloat16)
    swapped = x.transpose(0, 1)
    torch.testing.assert_close(rms_norm(swapped, weight, EPS), rms_norm(swapped.contiguous(), weight, EPS))
