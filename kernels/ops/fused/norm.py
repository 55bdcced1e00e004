"""RMSNorm over the last dimension: in one pass each way on CUDA, as `kernels/model/rms_norm.py` has it elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.model.rms_norm import rms_norm as by_torch
from galore.kernels.ops.dispatch import Backend, Case, choose, too_large

PROGRAMS = 256  # that each add up the gain's gradient over their rows, on any card: sums are in the same order
WIDEST = 16384  # numbers of a row that a program holds
RMS_NORM, BACKWARD = "rms norm", "rms norm backward"  # what is noticed on `meta`


def rms_norm(x: Tensor, weight: Tensor, eps: float, backend: Backend = "auto") -> Tensor:
    """weight ∘ x / √(mean(x²) + eps) in the dtype of x (…, d), by fp32 arithmetic with one rounding."""
    if choose(_case(x), backend).backend != "triton":
        return by_torch(x, weight, eps)
    out: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def _case(x: Tensor) -> Case:
    against = f"rows of {x.shape[-1]:,} numbers are more than {WIDEST:,}" if x.shape[-1] > WIDEST else ""
    return Case(x.device, too_large(x) or against, "one pass")


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, weight = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous()
        out, r = torch.empty_like(rows), rows.new_empty(len(rows), dtype=torch.float32)
        if out.is_meta:
            notice(RMS_NORM, 0, rows.nbytes + out.nbytes)
        else:
            from galore.kernels.triton.fused import rms_norm_plan
            from galore.kernels.triton.launch import run

            run(rms_norm_plan(out, r, rows, weight, eps))
        ctx.save_for_backward(rows, weight, r)
        ctx.shape = x.shape
        return out.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, r = ctx.saved_tensors
        upstream = upstream.reshape(rows.shape).contiguous()
        dx, gain = torch.empty_like(rows), ctx.needs_input_grad[1]
        partial = r.new_empty(max(1, min(PROGRAMS, len(rows))), rows.shape[1] if gain else 0)
        if dx.is_meta:
            notice(BACKWARD, 0, rows.nbytes + upstream.nbytes + dx.nbytes)
        else:
            from galore.kernels.triton.fused import rms_norm_backward_plan
            from galore.kernels.triton.launch import run

            run(rms_norm_backward_plan(dx, partial, upstream, rows, weight, r, gain))
        return dx.view(ctx.shape), partial.sum(0).to(weight.dtype) if gain else None, None
