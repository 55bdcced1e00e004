"""Adam's direction of a projected gradient: moments in any storage, read, updated and stored again in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.ops.dispatch import Backend, choose
from galore.kernels.ops.dispatch import adam as case
from galore.kernels.ops.dispatch import project_adam as fused_case
from galore.kernels.ops.projection import project
from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.layout import Matrix
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
        out: contiguous, fp32 or bf16; gradient: contiguous, of out's shape, any floating dtype.
        step: steps taken including this one, from 1.

    Raises:
        BackendError: `backend` cannot do it; the message says why.
    """
    chosen = choose(case(gradient, moments.kind), backend).backend
    if chosen == "triton" and out.is_meta:
        return  # one kernel, nothing beside what it is given
    if chosen == "triton":
        from galore.kernels.triton.adam import adam_plan
        from galore.kernels.triton.launch import run

        run(adam_plan(out, gradient, moments, rule, step=step, grad_scale=grad_scale))
        return
    flat, gradient, storages = out.view(-1), gradient.view(-1), moments.storages
    for _, first, last in element_blocks(gradient):
        part = torch.zeros(last - first, device=out.device)
        values = [storage.read(first, last) for storage in storages]
        g = gradient[first:last].float()
        g = g if grad_scale == 1.0 else g * grad_scale
        rule.update_(part, g, values[0], values[1], step=step, lr=1.0)
        for storage, value in zip(storages, values, strict=True):
            storage.write(first, last, value)
        flat[first:last] = part


def project_adam_(
    out: Tensor,
    p: Matrix,
    g: Tensor,
    moments: Moments,
    rule: AdamRule,
    *,
    step: int,
    grad_scale: float = 1.0,
    backend: Backend = "auto",
) -> None:
    """out (r, b) ← Adam's direction for R = grad_scale · Pᵀ G, P (a, r), G oriented (a, b), without R in between.

    For a step of one micro-batch whose norm nobody wants first: an optimizer that accumulates, clips or checks for nan
    takes `project` and `adam_direction_` instead.
    """
    chosen = choose(fused_case(g, moments.kind), backend).backend
    if chosen == "triton":
        _project_adam_by_triton(out, p, g, moments, rule, step, grad_scale)
        return
    r = project(p, g, backend="torch").float()
    adam_direction_(out, r, moments, rule, step=step, grad_scale=grad_scale, backend="torch")


def _project_adam_by_triton(
    out: Tensor, p: Matrix, g: Tensor, moments: Moments, rule: AdamRule, step: int, grad_scale: float
) -> None:
    from galore.kernels.triton.tuning import tile_for

    (a, b), r = g.shape, p.shape[1]
    tile = tile_for("project_adam", a, b, r, g.stride(0) == 1 and g.stride(1) > 1, moments.kind)
    if out.is_meta:  # where Triton need not be installed
        if not tile.fuses(moments.kind, b):
            out.new_empty(tile.split, r, b, dtype=torch.float32)
        return
    from galore.kernels.triton.adam import project_adam_plan
    from galore.kernels.triton.launch import run

    run(project_adam_plan(out, p, g, moments, rule, tile, step=step, grad_scale=grad_scale))
