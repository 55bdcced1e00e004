"""Causal attention for the CPU, as a few large batched products.

For one head, with Q, K, V (T, D) and scale s:

    S = s Q Kᵀ + mask,   P = softmax(S),   O = P V
    dV = Pᵀ dO,   dP = dO Vᵀ,   δ = rowsum(dO ∘ O),   dS = s P ∘ (dP - δ),   dQ = dS K,   dK = dSᵀ Q

Rows are done in tiles and heads in groups, so that a tile of P stays in the cache and keys in the future of a whole
tile are never touched. Products are of the dtype of Q; softmax is fp32 arithmetic on scores with fp32's accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE_ROWS = 128  # rows of Q done together: smaller tiles skip more of the future, but their products are slower
TILE_ELEMENTS = 2**20  # of P, for all heads of a group: its fp32 scores (4 MiB) stay in the cache
KEPT_LENGTH = 512  # up to this T, P is kept for the backward (2 H T bytes per token in bf16); beyond, it is recomputed


def causal_attention(
    q: Tensor,  # (B, H, T, D)
    k: Tensor,  # (B, H, T, D)
    v: Tensor,  # (B, H, T, D)
    scale: float | None = None,
) -> Tensor:  # (B, T, H, D)
    """softmax(scale · q kᵀ + causal mask) v, contiguous as (B, T, H, D) for the output projection.

    Args:
        q, k, v: one dtype, one shape, any strides.
        scale: factor on the scores; None is 1/√D.

    Raises:
        ValueError: the shapes differ.
    """
    if not q.shape == k.shape == v.shape or q.ndim != 4:
        raise ValueError(f"expected q, k, v of one shape (B, H, T, D), not {q.shape}, {k.shape}, {v.shape}")
    out: Tensor = _CausalAttention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)  # type: ignore[no-untyped-call]
    return out


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        batch, ctx.scale = len(q), scale
        q, k, v = (_flat(x) for x in (q, k, v))
        out, kept = torch.empty_like(q), []
        for heads, rows in _tiles(q):
            p = _probabilities(q[heads, rows], k[heads, : rows.stop], scale)
            out[heads, rows] = p @ v[heads, : rows.stop]
            if q.shape[1] <= KEPT_LENGTH:
                kept.append(p)
        ctx.save_for_backward(q, k, v, out, *kept)
        return _tokens_first(out, batch)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # (B, T, H, D)
        q, k, v, out, *kept = ctx.saved_tensors
        batch, g = len(d_out), _flat(d_out.transpose(1, 2))
        centred = _with_columns(g, -(g.float() * out).sum(-1, keepdim=True))
        ones = _with_columns(v, v.new_ones(*v.shape[:2], 1), exact=True)
        dq = torch.empty_like(q)
        sums = torch.float32 if q.shape[1] > TILE_ROWS else q.dtype
        dk, dv = torch.zeros_like(k, dtype=sums), torch.zeros_like(v, dtype=sums)
        for i, (heads, rows) in enumerate(_tiles(q)):
            seen = slice(rows.stop)
            p = kept[i] if kept else _probabilities(q[heads, rows], k[heads, seen], ctx.scale)
            ds = _product(centred[heads, rows], ones[heads, seen].mT, ctx.scale).mul_(p)
            dv[heads, seen] += p.mT @ g[heads, rows]
            dk[heads, seen] += ds.mT @ q[heads, rows]
            dq[heads, rows] = ds @ k[heads, seen]
        return *(_tokens_first(x.to(q.dtype), batch).transpose(1, 2) for x in (dq, dk, dv)), None


def _tiles(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """(heads, rows) of every tile."""
    heads, length, _ = q.shape
    group = max(1, TILE_ELEMENTS // (min(length, TILE_ROWS) * length))
    for head in range(0, heads, group):
        for row in range(0, length, TILE_ROWS):
            yield slice(head, head + group), slice(row, min(row + TILE_ROWS, length))


def _probabilities(q: Tensor, k: Tensor, scale: float) -> Tensor:  # (G, t, D), (G, j, D) -> (G, t, j)
    """softmax of the scores of the last t of j positions."""
    scores = _product(q, k.mT, scale)
    if q.dtype != torch.float32:  # add what rounding the product took off: scores of 10 are off by up to 0.03 else
        lost = torch.baddbmm(scores, q, k.mT, beta=-1, alpha=scale)
        scores = scores.float().add_(lost)
    rows = q.shape[1]
    scores[:, :, -rows:] += torch.full((rows, rows), float("-inf"), dtype=torch.float32, device=q.device).triu_(1)
    return torch.softmax(scores, dim=-1).to(q.dtype)


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale)


def _with_columns(x: Tensor, column: Tensor, exact: bool = False) -> Tensor:
    """x (G, T, D) with `column` (G, T, 1) beside it, in two parts that together carry fp32's first 16 bits.

    [dO, -δ] [V, 1]ᵀ is dP - δ, subtracted inside the product, before anything is rounded.
    """
    high = column.to(x.dtype)
    return torch.cat((x, high, high if exact else (column - high).to(x.dtype)), dim=-1)


def _flat(x: Tensor) -> Tensor:  # (B, H, T, D) -> (B·H, T, D)
    return x.reshape(-1, *x.shape[2:]).contiguous()


def _tokens_first(x: Tensor, batch: int) -> Tensor:  # (B·H, T, D) -> (B, T, H, D)
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2).contiguous()
