"""Rotary positions of queries and keys, each in one pass each way, of which nothing is kept but cosines and sines.

For the halves x₁, x₂ of a head and angles c, s:   y₁ = x₁ c₁ - x₂ s₁,   y₂ = x₂ c₂ + x₁ s₂

Source: Su et al., 2021 (arXiv 2104.09864), halves apart as transformers has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer

ROTARY = "rotary"  # what is noticed on `meta`


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
    """q (B, H, T, D) and k (B, K, T, D), laid out as given, turned by cos and sin (B or 1, T, D), rounded once."""
    cos, sin = cos.contiguous(), sin.contiguous()
    return _turned(q, cos, sin, backend), _turned(k, cos, sin, backend)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, backend: Backend) -> Tensor:
    out: Tensor = _Rotary.apply(x, cos, sin, backend)  # type: ignore[no-untyped-call]
    return out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, backend: Backend) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.backend = backend
        return _turn(x, cos, sin, False, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(upstream, cos, sin, True, ctx.backend), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, backward: bool, backend: Backend) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = torch.empty_like(x)
    if out.stride(-1) != 1:  # of one whose elements overlap
        out = x.new_empty(x.shape)
    if choose(quantizer(out, x), backend).backend != "triton":
        (c1, c2), (s1, s2) = (each.unsqueeze(1).float().chunk(2, dim=-1) for each in (cos, sin))
        (x1, x2), (y1, y2) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
        first, second = (s2, -s1) if backward else (-s1, s2)
        y1.copy_(torch.addcmul(x1 * c1, x2, first))
        y2.copy_(torch.addcmul(x2 * c2, x1, second))
    elif out.is_meta:
        notice(ROTARY, 0, x.nbytes + out.nbytes)
    else:
        from galore.kernels.triton.fused import rotary_plan
        from galore.kernels.triton.launch import run

        run(rotary_plan(out, x, cos, sin, backward))
    return out
