"""SwiGLU: silu(gate) ∘ up in one pass each way, of which nothing is kept but gate and up.

    h = g σ(g) u,   du = dh g σ(g),   dg = dh u σ(g) (1 + g (1 - σ(g)))

Source: Shazeer, 2020 (arXiv 2002.05202).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer

BLOCK = 2**19  # elements done together by torch: the fp32 temporaries stay in the cache
SWIGLU, BACKWARD = "swiglu", "swiglu backward"  # what is noticed on `meta`


def swiglu(gate: Tensor, up: Tensor, backend: Backend = "auto") -> Tensor:
    """silu(gate) ∘ up of one shape and dtype, by fp32 arithmetic with one rounding."""
    out: Tensor = _SwiGLU.apply(gate.contiguous(), up.contiguous(), backend)  # type: ignore[no-untyped-call]
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, backend: Backend) -> Tensor:
        out, ctx.backend = torch.empty_like(gate), backend
        ctx.save_for_backward(gate, up)
        if choose(quantizer(out), backend).backend != "triton":
            for h, g, u in _blocks(out, gate, up):
                g = g.float()
                h.copy_(g.sigmoid().mul_(g).mul_(u))
        elif out.is_meta:
            notice(SWIGLU, 0, 3 * out.nbytes)
        else:
            from galore.kernels.triton.fused import swiglu_plan
            from galore.kernels.triton.launch import run

            run(swiglu_plan(out, gate, up))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        d_gate, d_up, upstream = torch.empty_like(gate), torch.empty_like(up), upstream.contiguous()
        if choose(quantizer(upstream), ctx.backend).backend != "triton":
            for dg, du, dh, g, u in _blocks(d_gate, d_up, upstream, gate, up):
                g = g.float()
                s = g.sigmoid()
                dh = dh * s
                du.copy_(dh * g)
                dg.copy_(s.neg_().add_(1).mul_(g).add_(1).mul_(dh).mul_(u))
        elif upstream.is_meta:
            notice(BACKWARD, 0, 5 * upstream.nbytes)
        else:
            from galore.kernels.triton.fused import swiglu_backward_plan
            from galore.kernels.triton.launch import run

            run(swiglu_backward_plan(d_gate, d_up, upstream, gate, up))
        return d_gate, d_up, None


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(each.view(-1), BLOCK) for each in tensors), strict=True)
