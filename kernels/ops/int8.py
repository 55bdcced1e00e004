"""Weights in 8 bits that are trained: a scale per group of a row, updates added in fp32 and rounded stochastically.

    W = s q,  q in [-127, 127];   V = decay·W + alpha·U in fp32;   q' = ⌊V / s' + u⌋, u uniform in [0, 1)

so that E[s' q'] = V: no update is lost, however small beside s (Q-GaLore, arXiv 2407.08296, section 3.4, whose code
adds in bf16 first and loses most of it). A scale changes only where its group has outgrown it or has shrunk to half of
it, since every change of s rounds all of the group anew; otherwise an element that is not updated keeps its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.ops.dispatch import Backend, choose, quantizer
from galore.kernels.storage.layout import group_size
from galore.kernels.storage.rounding import blocks_of, updated_

LARGEST = 127
HEADROOM = 1.125  # of a new scale over the largest number of its group
_ROUND_UP = 1 + 2**-7  # the bf16 nearest to this much more is not below
_TINY = 1e-30  # scale of a group of zeros


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of the codes and bf16 scales of a weight (m, n)."""
    return rows * columns + 2 * rows * (columns // group_size(columns))


def quantize(w: Tensor) -> tuple[Tensor, Tensor]:
    """w (m, n), any floating dtype → int8 codes (m, n) to the nearest, bf16 scales (m, n / group)."""
    m, n = w.shape
    codes = torch.empty(w.shape, dtype=torch.int8, device=w.device)
    scales = torch.empty(m, n // group_size(n), dtype=torch.bfloat16, device=w.device)
    # a model is made before anything is traced, and a large one has hundreds of weights
    if w.is_meta:
        return codes, scales
    for _, first, last in blocks_of(w, m, max(1, (1 << 22) // n)):
        groups = w[first:last].float().view(-1, group_size(n))
        fresh = _scale_for(groups.abs().amax(1), 1.0)
        scales[first:last] = fresh.view(last - first, -1)
        codes[first:last] = (groups / fresh.float()[:, None]).round_().view(last - first, n)
    return codes, scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype, backend: Backend = "auto") -> Tensor:
    """s q as a new (m, n) of `dtype`, rounded once, without a further temporary."""
    m, n = codes.shape
    if choose(quantizer(codes), backend).backend == "triton":
        codes, scales = codes.contiguous(), scales.contiguous()
        w = torch.empty_like(codes, dtype=dtype)
        if w.is_meta:
            notice("dequantize", 0, w.nbytes + codes.nbytes + scales.nbytes)
        else:
            from galore.kernels.triton.launch import run
            from galore.kernels.triton.quantize import dequantize_weight_plan

            run(dequantize_weight_plan(w, codes, scales))
        return w
    w = codes.to(dtype)
    w.view(m, -1, group_size(n)).mul_(scales.to(dtype)[..., None])
    return w


def add_update_int8_(
    codes: Tensor,
    scales: Tensor,
    update: Tensor,
    *,
    alpha: float,
    decay: float,
    decay_after: bool = False,
    noise: Tensor | None = None,
) -> None:
    """W ← decay·W + alpha·update, or with `decay_after` decay·(W + alpha·update), rounded once, in place.

    Args:
        codes: (k, n) rows of the int8 codes, contiguous; scales: (k, n / group), bf16, the same rows.
        update: k·n elements, any floating dtype.
        noise: int32 (k·n,) in [0, 65535], as of `RoundingNoise`; None rounds to nearest.
    """
    size = group_size(codes.shape[1])
    old = scales.view(-1).float()
    value = codes.view(-1, size) * old[:, None]
    updated_(value, update.view(-1, size), alpha, decay, decay_after)
    largest = value.abs().amax(1)
    kept = (largest <= LARGEST * old) & (largest >= LARGEST / 2 * old)
    scale = torch.where(kept, old, _scale_for(largest, HEADROOM).float())
    value.div_(scale[:, None])
    value.add_(0.5 if noise is None else noise.view(-1, size).float().add_(0.5).mul_(2.0**-16))  # u mid-step: no drift
    codes.view(-1, size).copy_(value.floor_().clamp_(-LARGEST, LARGEST))
    scales.view(-1).copy_(scale)


def _scale_for(largest: Tensor, headroom: float) -> Tensor:
    """The bf16 scale (groups,) with which `largest` · headroom still fits the codes."""
    return (largest * (headroom * _ROUND_UP / LARGEST)).clamp_min_(_TINY).bfloat16()
