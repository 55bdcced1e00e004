"""RMSNorm in fp32 arithmetic with one rounding, keeping nothing in fp32 but one number per row for the backward.

For one row x (d,) with gain w and upstream gradient g:

    r = 1 / √(mean(x²) + ε),   n = r x,   y = w ∘ n
    dx = r (w ∘ g - n · mean(w ∘ g ∘ n)),   dw = Σ over rows of g ∘ n

Source: Zhang & Sennrich, 2019 (arXiv 1910.07467).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        r = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        ctx.save_for_backward(x, weight, r)
        return (wide * r).mul_(weight).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        n, wide = x.float() * r, g.float()
        d_weight = (wide * n).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        wide = wide * weight
        mean = torch.linalg.vecdot(wide, n).unsqueeze(-1).div_(x.shape[-1])
        dx = wide.addcmul_(n, mean, value=-1).mul_(r).to(x.dtype)
        return dx, None if d_weight is None else d_weight.to(weight.dtype), None
