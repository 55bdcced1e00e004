"""Projecting a gradient and lifting an update back, without an m×n fp32 temporary.

bf16 operands are multiplied with fp32 accumulation; the product is fp32 on CUDA and bf16 on the CPU, whose GEMM has no
wider output.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.device import device_type
from galore.kernels.reference import orient
from galore.kernels.rounding import RoundingNoise, add_update_, block_elements

__all__ = ["lift_update_", "orient", "project"]


def project(p: Tensor, g: Tensor) -> Tensor:
    """R (r, b) = Pᵀ G for p (a, r) and the oriented gradient g (a, b); P is cast to the gradient's dtype."""
    p = p.to(g.dtype)
    if device_type(g) == "cuda" and g.dtype == torch.bfloat16:
        return torch.mm(p.mT, g, out_dtype=torch.float32)
    return p.mT @ g


def row_blocks(w: Tensor) -> Iterator[tuple[int, int, int]]:
    """(block number, first row, last row) of row blocks of w (m, n), each as many elements as its device does at a time."""
    rows, columns = w.shape
    height = max(1, block_elements(w) // columns)
    for block, first in enumerate(range(0, rows, height)):
        yield block, first, min(first + height, rows)


def lift_update_(
    w: Tensor,
    p: Tensor,
    n: Tensor,
    *,
    alpha: float,
    decay: float = 1.0,
    decay_after: bool = False,
    noise: RoundingNoise | None = None,
    tensor: int = 0,
) -> None:
    """W ← decay·W + alpha·P N in place.

    Args:
        w: (m, n) contiguous weight, fp32 or bf16; its larger side is b.
        p: (a, r) projector; n: (r, b) direction in the subspace.
        decay_after: decay the updated weight, as the official code does.
        noise, tensor: random bits for stochastic rounding into bf16, and this weight's number in their key.
    """
    p, n = p.to(w.dtype), n.to(w.dtype)
    left, right = (n.mT, p.mT) if w.shape[0] >= w.shape[1] else (p, n)
    if w.dtype == torch.float32:
        w.addmm_(left, right, beta=1.0 if decay_after else decay, alpha=alpha)
        if decay_after and decay != 1.0:
            w.mul_(decay)
        return
    for block, first, last in row_blocks(w):
        rows = w[first:last].view(-1)
        bits = noise.window(tensor, block, rows.numel()) if noise else None
        update = (left[first:last] @ right).view(-1)
        add_update_(rows, update, alpha=alpha, decay=decay, decay_after=decay_after, noise=bits)
