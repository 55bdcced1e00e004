"""Adam's direction of a projected gradient: moments in any storage, read, updated and stored again in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose
from galore.kernels.ops.dispatch import adam as case
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.moments import Moments
from galore.kernels.storage.rounding import element_blocks


def adam_direction_(
    out: Tensor,
    gradient: Tensor,
    moments: Moments,
    rule: AdamRule,
    *,
    step: int,
    grad_scale: float = 1.0,
    backend: Backend = "auto",
) -> None:
    """out ← -m̂ / (√v̂ + ε) for grad_scale · gradient; the moments take the step, in place.

    Args:
        out: contiguous, fp32 or bf16; gradient: of out's shape, any floating dtype.
        step: steps taken including this one, from 1.

    Raises:
        BackendError: `backend` cannot do it; the message says why.
    """
    gradient = gradient.contiguous()
    chosen = choose(case(gradient, moments.kind), backend).backend
    if chosen == "triton" and out.is_meta:  # one kernel, nothing beside what it is given
        notice("adam", 0, gradient.nbytes + out.nbytes + 2 * moments.nbytes)
        return
    if chosen == "triton":
        from galore.kernels.triton.adam import adam_plan
        from galore.kernels.triton.launch import run

        run(adam_plan(out, gradient, moments, rule, step=step, grad_scale=grad_scale))
        return
    flat, gradient, storages = out.view(-1), gradient.view(-1), moments.storages
    for _, first, last in element_blocks(gradient):
        part = torch.zeros(last - first, device=out.device, dtype=torch.float32)
        values = [storage.read(first, last) for storage in storages]
        g = gradient[first:last].float()
        g = g if grad_scale == 1.0 else g * grad_scale
        rule.update_(part, g, values[0], values[1], step=step, lr=1.0)
        for storage, value in zip(storages, values, strict=True):
            storage.write(first, last, value)
        flat[first:last] = part
