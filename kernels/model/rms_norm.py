"""RMSNorm in fp32 arithmetic with one rounding, keeping nothing in fp32 but one number per row for the backward.

For one row x (d,) with gain w and upstream gradient g:

    r = 1 / √(mean(x²) + ε),   n = r x,   y = w ∘ n
    dx = r (w ∘ g - n · mean(w ∘ g ∘ n)),   dw = Σ over rows of g ∘ n

Source: Zhang & Sennrich, 2019 (arXiv 1910.07467).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**19  # of x done together: the fp32 temporaries (2 MiB each) stay in the cache


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight ∘ x / √(mean(x²) + eps) over the last dimension.

    Args:
        x: (…, d).
        weight: (d,), the dtype of `x`.

    Returns:
        (…, d), the dtype of `x`.
    """
    out: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, gain = x.reshape(-1, x.shape[-1]), weight.float()
        out, r = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
        for here in _blocks(rows):
            wide = _copied(rows[here])
            norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            r[here] = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            out[here] = wide.mul_(r[here]).mul_(gain)
        ctx.save_for_backward(x, weight, r)
        return out.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        rows, upstream = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, x.shape[-1])
        dx, gain = torch.empty_like(rows), weight.float()
        d_weight = torch.zeros_like(gain)
        for here in _blocks(rows):
            n, g = _copied(rows[here]).mul_(r[here]), _copied(upstream[here])
            d_weight += (g * n).sum(0)
            g *= gain
            mean = (g * n).mean(1, keepdim=True)
            dx[here] = g.addcmul_(n, mean, value=-1).mul_(r[here])
        return dx.view_as(x), d_weight.to(weight.dtype), None


def _blocks(rows: Tensor) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    return (slice(at, at + step) for at in range(0, len(rows), step))


def _copied(x: Tensor) -> Tensor:
    return x.to(torch.float32, copy=True)
