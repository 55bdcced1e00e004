"""Causal attention for the CPU against torch's kernel, both measured against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from galore.kernels.model import attention
from galore.kernels.model.attention import causal_attention

Heads = tuple[Tensor, Tensor, Tensor]


def heads(batch: int, count: int, length: int, size: int, dtype: torch.dtype, spread: float = 1.0) -> Heads:
    """q, k, v (B, H, T, D) as a model has them: transposed views. `spread` 4 makes the softmax peaked."""
    draw = torch.Generator().manual_seed(length * size + count)
    drawn = (torch.randn(batch, length, count, size, generator=draw) for _ in range(3))
    q, k, v = (x.to(dtype).transpose(1, 2) for x in drawn)
    return q * spread, k, v


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def output_and_gradients(function, qkv: Heads) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    out = function(*leaves)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out)]


def errors(results: list[Tensor], exact: list[Tensor]) -> Tensor:
    return torch.tensor([(r.double() - e).norm() / e.norm() for r, e in zip(results, exact, strict=True)])


SHAPES = [(1, 2, 256, 64), (1, 2, 300, 32), (3, 2, 128, 32), (32, 4, 7, 16), (8, 2, 65, 40)]


@pytest.mark.parametrize("spread", [1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_that_of_torchs_kernel(shape, dtype, spread):
    qkv = heads(*shape, dtype, spread)
    exact = output_and_gradients(sdpa, tuple(x.double() for x in qkv))
    ours = errors(output_and_gradients(causal_attention, qkv), exact)
    torchs = errors(output_and_gradients(sdpa, qkv), exact)
    slack = 1.35 if dtype == torch.bfloat16 else 2.0  # roundings in another order; bf16 scores would cost 2 to 6
    assert (ours <= slack * torchs + 1e-7).all(), (ours, torchs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "elements", "kept"), [(1, 1, 0), (16, 2000, 0), (16, 10**6, 100), (100, 10**6, 0)])
def test_tiles_groups_and_recomputation_change_nothing(monkeypatch, rows, elements, kept, dtype):
    qkv = heads(2, 3, 50, 16, dtype)
    whole = output_and_gradients(causal_attention, qkv)
    monkeypatch.setattr(attention, "TILE_ROWS", rows)
    monkeypatch.setattr(attention, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(attention, "KEPT_LENGTH", kept)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for tiled, one in zip(output_and_gradients(causal_attention, qkv), whole, strict=True):
        torch.testing.assert_close(tiled, one, rtol=tolerance, atol=tolerance)


def test_the_future_is_never_seen():
    q, k, v = heads(1, 2, 200, 16, torch.bfloat16)
    before = causal_attention(q, k, v)[:, :150]
    k[:, :, 150:], v[:, :, 150:] = 1e4, 1e30
    assert torch.equal(causal_attention(q, k, v)[:, :150], before)


def test_long_sequences_keep_no_probabilities(monkeypatch):
    monkeypatch.setattr(attention, "KEPT_LENGTH", 31)
    for length, kept in ((31, True), (32, False)):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            causal_attention(*(x.requires_grad_() for x in heads(1, 1, length, 4, torch.bfloat16)))
        assert (length * length in saved) == kept


def test_output_is_laid_out_for_the_projection_and_scale_is_honoured():
    q, k, v = heads(2, 3, 40, 8, torch.float32)
    out = causal_attention(q, k, v, scale=0.5)
    assert out.shape == (2, 40, 3, 8)
    assert out.is_contiguous()
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5).transpose(1, 2))


def test_gradients_come_in_the_layout_of_the_inputs():
    leaves = [x.requires_grad_() for x in heads(2, 3, 40, 8, torch.bfloat16)]
    for leaf, gradient in zip(leaves, torch.autograd.grad(causal_attention(*leaves).sum(), leaves), strict=True):
        assert gradient.stride() == leaf.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_token_attends_to_itself(dtype):
    qkv = heads(3, 2, 1, 8, dtype)
    out, dq, dk, _ = output_and_gradients(causal_attention, qkv)
    assert torch.equal(out, qkv[2].transpose(1, 2))
    assert max(dq.abs().max(), dk.abs().max()) < 1e-4


def test_other_shapes_are_refused():
    q, k, v = heads(1, 2, 8, 4, torch.float32)
    with pytest.raises(ValueError, match="one shape"):
        causal_attention(q, k[:, :1], v)
