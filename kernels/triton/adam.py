"""Plans of Adam's direction from the projected gradient: moments read, updated and stored in one launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.blockwise import BLOCK_SIZE
from galore.kernels.storage.moments import Moments
from galore.kernels.triton.jit.adam import adam_kernel
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.states import STATES, tables

FLOPS = 16  # per element, about
ADAM_BLOCKS, ADAM_WARPS = 8, 8  # blocks of 256 to a program


def adam_plan(
    out: Tensor, gradient: Tensor, moments: Moments, rule: AdamRule, *, step: int, grad_scale: float = 1.0
) -> list[Launch]:
    """out ← -m̂ / (√v̂ + ε) of grad_scale · gradient; all of k elements in order, the moments updated in place.

    Args:
        gradient: any floating dtype, of out's shape.
    """
    count = out.numel()
    size = ADAM_BLOCKS * BLOCK_SIZE
    launch = Launch(
        adam_kernel,
        (blocks(count, size), 1),
        {
            "OUT": out,
            "GRAD": gradient,
            **_moment_arguments(moments, out.device),
            "count": count,
            "grad_scale": float(grad_scale),
            **_rule_arguments(rule, step),
        },
        {"STATE": STATES[moments.kind], "BLOCKS": ADAM_BLOCKS, "EVEN": count % size == 0},
        ADAM_WARPS,
        flops=count * FLOPS,
        bytes=gradient.nbytes + out.nbytes + 2 * moments.nbytes,
    )
    return [launch]


def _moment_arguments(moments: Moments, device: torch.device) -> dict[str, Any]:
    dynamic = moments.kind == "dynamic"
    m, v = (x.view(torch.uint8) if moments.kind == "e4m3" else x for x in (moments.m, moments.v))
    return {
        "M": m,
        "V": v,
        "M_ABSMAX": moments.m_absmax,
        "V_ABSMAX": moments.v_absmax,
        "TABLES": tables(device) if dynamic else None,
    }


def _rule_arguments(rule: AdamRule, step: int) -> dict[str, float]:
    m_factor, v_factor = rule.factors(step)
    return {
        "beta1": rule.beta1,
        "rest1": 1 - rule.beta1,
        "beta2": rule.beta2,
        "rest2": 1 - rule.beta2,
        "eps": rule.eps,
        "m_factor": m_factor,
        "v_factor": v_factor,
    }
