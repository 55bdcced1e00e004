"""Plans of Adam's direction from a projected gradient: from a sum of R, or fused with the projection that makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.rules.adam import AdamRule
from galore.kernels.storage.blockwise import BLOCK_SIZE
from galore.kernels.storage.layout import Matrix
from galore.kernels.storage.moments import Moments
from galore.kernels.triton.dtypes import language_dtype
from galore.kernels.triton.jit.adam import adam_kernel
from galore.kernels.triton.jit.project_adam import project_adam_kernel
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.operand import Operand
from galore.kernels.triton.product import partial_product
from galore.kernels.triton.tables import tables
from galore.kernels.triton.tile import Tile

STATES = {"float32": 0, "dynamic": 1, "e4m3": 2}
FLOPS = 16  # per element, about
ADAM_BLOCKS, ADAM_WARPS = 8, 8  # blocks of 256 to a program


def adam_plan(
    out: Tensor, gradient: Tensor, moments: Moments, rule: AdamRule, *, step: int, grad_scale: float = 1.0
) -> list[Launch]:
    """out ← -m̂ / (√v̂ + ε) of grad_scale · gradient; all of k elements in order, the moments updated in place.

    Args:
        gradient: any floating dtype, of out's shape, or (parts, …) to be summed first.
    """
    count = out.numel()
    split = gradient.numel() // count
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
        {"SPLIT": split, "STATE": STATES[moments.kind], "BLOCKS": ADAM_BLOCKS, "EVEN": count % size == 0},
        ADAM_WARPS,
        flops=count * (FLOPS + split),
        bytes=gradient.nbytes + out.nbytes + 2 * moments.nbytes,
    )
    return [launch]


def project_adam_plan(
    out: Tensor,
    p: Matrix,
    g: Tensor,
    moments: Moments,
    rule: AdamRule,
    tile: Tile,
    *,
    step: int,
    grad_scale: float = 1.0,
    fp8_scales: Tensor | None = None,
) -> list[Launch]:
    """out (r, b) ← Adam's direction for R = grad_scale · Pᵀ G, P (a, r), G oriented (a, b); R is never stored whole.

    One kernel where the tile fuses; otherwise partial sums of R, and Adam on their sum: it is not linear, and so cannot be
    taken of the parts.
    """
    if tile.fuses(moments.kind, out.shape[1]):
        return [_fused(out, p, g, moments, rule, tile, step, grad_scale, fp8_scales)]
    parts = out.new_empty(tile.split, *out.shape, dtype=torch.float32)
    product = partial_product(parts, Operand.of(p).mT, g, tile, dtype=g.dtype, fp8_scales=fp8_scales)
    return [product, *adam_plan(out, parts, moments, rule, step=step, grad_scale=grad_scale)]


def _fused(
    out: Tensor,
    p: Matrix,
    g: Tensor,
    moments: Moments,
    rule: AdamRule,
    tile: Tile,
    step: int,
    grad_scale: float,
    fp8_scales: Tensor | None,
) -> Launch:
    operand, (k, n) = Operand.of(p), g.shape
    r = operand.shape[1]
    return Launch(
        project_adam_kernel,
        (blocks(r, tile.rows) * blocks(n, tile.columns), 1),
        {
            "OUT": out,
            **operand.arguments("P"),
            "G": g,
            **_moment_arguments(moments, out.device),
            "R": r,
            "N": n,
            "K": k,
            "spr": operand.strides[1],
            "spk": operand.strides[0],
            "sgk": g.stride(0),
            "sgn": g.stride(1),
            "FP8_SCALES": fp8_scales,
            "grad_scale": float(grad_scale),
            **_rule_arguments(rule, step),
        },
        {
            "P_BITS": operand.bits,
            "DTYPE": language_dtype(g.dtype),
            "STATE": STATES[moments.kind],
            "EVEN": tile.even(r, n, k),
            **tile.constants(),
        },
        tile.warps,
        tile.stages,
        flops=2 * r * n * k + FLOPS * r * n,
        bytes=operand.nbytes + g.nbytes + out.nbytes + 2 * moments.nbytes,
    )


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
