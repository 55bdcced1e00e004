"""Plans of W ← decay·W + alpha·P N in place, for weights in fp32, bf16, compensated bf16 and int8 groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.kernels.storage.layout import Matrix, group_size
from galore.kernels.storage.rounding import RoundingNoise
from galore.kernels.triton.jit.lift import lift_int8_kernel, lift_kernel
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.operand import Operand
from galore.kernels.triton.product import language_dtype
from galore.kernels.triton.tile import Tile


def lift_plan(
    w: Tensor,
    p: Matrix,
    n: Tensor,
    tile: Tile,
    *,
    alpha: float,
    decay: float = 1.0,
    decay_after: bool = False,
    noise: RoundingNoise | None = None,
    tensor: int = 0,
    compensation: Tensor | None = None,
    transposed: bool = False,
    scales: Tensor | None = None,
) -> list[Launch]:
    """`projection.lift_update_` without a dense term, in one launch; random bits keyed by `noise`, `tensor`, element.

    Args:
        p: (a, r) dense or in codes; n: (r, b); multiplied in n's dtype.
    """
    left, right = Operand.of(p), Operand.of(n)
    a, b = (right.mT, left.mT) if transposed else (left, right)
    low, high = noise.words(tensor) if noise else (0, 0)
    (rows, columns), rank = w.shape, n.shape[0]
    compensation = None if compensation is None else compensation.view(w.shape)
    arguments = {
        "W": w,
        **({"C": compensation} if scales is None else {"S": scales}),
        **a.arguments("A"),
        **b.arguments("B"),
        "M": rows,
        "N": columns,
        "K": rank,
        "sam": a.strides[0],
        "sak": a.strides[1],
        "sbk": b.strides[0],
        "sbn": b.strides[1],
        "alpha": float(alpha),
        "decay": float(decay),
        "low": low,
        "high": high,
    }
    constants: dict[str, Any] = {
        "A_BITS": a.bits,
        "B_BITS": b.bits,
        "DTYPE": language_dtype(n.dtype),
        "AFTER": decay_after,
        "STOCHASTIC": noise is not None and w.dtype != torch.float32 and not _is_exact(compensation),
        **tile.constants(),
    }
    held = sum(x.nbytes for x in (w, compensation, scales) if x is not None)
    work = {"flops": 2 * w.numel() * rank, "bytes": 2 * held + left.nbytes + right.nbytes}
    if scales is None:
        grid = (blocks(rows, tile.rows) * blocks(columns, tile.columns), 1)
        constants |= {"EVEN": tile.even(rows, columns, rank)}
        return [Launch(lift_kernel, grid, arguments, constants, tile.warps, tile.stages, **work)]
    size = group_size(columns)
    width = max(32, 1 << (size - 1).bit_length())
    even = size == width and tile.even(rows, tile.columns, rank)
    constants |= {"SIZE": size, "BN": width, "EVEN": even}
    grid = (blocks(rows, tile.rows) * (columns // size), 1)
    return [Launch(lift_int8_kernel, grid, arguments, constants, tile.warps, tile.stages, **work)]


def _is_exact(compensation: Tensor | None) -> bool:
    """Whether nothing is left to round."""
    return compensation is not None and compensation.dtype == torch.int16
