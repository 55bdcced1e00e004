"""Plans of matrix products: R = Pᵀ G and R = (δ P)ᵀ x, P in any storage, added to a running sum if wanted."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from galore.kernels.storage.layout import Matrix
from galore.kernels.triton.jit.product import product_kernel, reduce_kernel
from galore.kernels.triton.launch import Launch, blocks
from galore.kernels.triton.operand import Operand
from galore.kernels.triton.tile import Tile

REDUCE_BLOCK = 1024


def product_plan(
    out: Tensor,
    a: Matrix | Operand,
    b: Matrix | Operand,
    tile: Tile,
    *,
    accumulate: bool = False,
    dtype: torch.dtype | None = None,
) -> list[Launch]:
    """out (M, N) ← A (M, K) B (K, N) with fp32 sums, or with `accumulate` out + A B, rounded once.

    Args:
        dtype: that the operands are multiplied in; by default that of whichever is not in codes.
    """
    if tile.split == 1:
        return [_partial(out, a, b, tile, accumulate=accumulate, dtype=dtype)]
    parts = out.new_empty(tile.split, *out.shape, dtype=torch.float32)
    return [
        _partial(parts, a, b, tile, dtype=dtype),
        _reduce(out, parts, accumulate=accumulate),
    ]


def _partial(
    out: Tensor,
    a: Matrix | Operand,
    b: Matrix | Operand,
    tile: Tile,
    *,
    accumulate: bool = False,
    dtype: torch.dtype | None = None,
) -> Launch:
    """One launch of `product_kernel`; out (M, N), or (split, M, N) for a tile that splits the sum."""
    a, b = (x if isinstance(x, Operand) else Operand.of(x) for x in (a, b))
    (m, k), n = a.shape, b.shape[1]
    dtype = dtype or (b.values.dtype if a.bits else a.values.dtype)
    per_split = blocks(k, tile.depth * tile.split) * tile.depth
    return Launch(
        product_kernel,
        (blocks(m, tile.rows) * blocks(n, tile.columns), tile.split),
        {
            "OUT": out,
            **a.arguments("A"),
            **b.arguments("B"),
            "M": m,
            "N": n,
            "K": k,
            "sam": a.strides[0],
            "sak": a.strides[1],
            "sbk": b.strides[0],
            "sbn": b.strides[1],
            "per_split": per_split,
        },
        {
            "A_BITS": a.bits,
            "B_BITS": b.bits,
            "DTYPE": language_dtype(dtype),
            "ACCUMULATE": accumulate,
            "EVEN": tile.even(m, n, k),
            **tile.constants(),
        },
        tile.warps,
        tile.stages,
        flops=2 * m * n * k,
        bytes=a.nbytes + b.nbytes + out.nbytes * (1 + accumulate),
    )


def _reduce(out: Tensor, parts: Tensor, *, accumulate: bool) -> Launch:
    """out ← Σ parts (split, …), or out + Σ parts."""
    count = out.numel()
    return Launch(
        reduce_kernel,
        (blocks(count, REDUCE_BLOCK), 1),
        {"OUT": out, "PARTS": parts, "count": count},
        {"SPLIT": parts.shape[0], "ACCUMULATE": accumulate, "BLOCK": REDUCE_BLOCK},
        flops=count * parts.shape[0],
        bytes=parts.nbytes + out.nbytes * (1 + accumulate),
    )


def language_dtype(dtype: torch.dtype) -> Any:
    """The dtype that operands are multiplied in, as a constant of a kernel."""
    return {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
