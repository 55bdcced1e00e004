"""A function of each token by itself, computed in tiles of tokens, forward and backward.

What is made on the way exists of one tile at a time: the backward computes a tile again, goes back through it, and adds
what it finds of the parameters to a sum in fp32. Its input alone is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from galore.kernels.linear import TileSum, gathering

# of x (1, n, d) to something of its shape and type, each of the n by itself
Function = Callable[[Tensor], Tensor]


def in_tiles(function: Function, x: Tensor, tokens: int, parameters: Sequence[Tensor]) -> Tensor:
    """function(x) for x (…, d), of `tokens` vectors at a time.

    Args:
        parameters: that `function` depends on and that want a gradient.
    """
    if not torch.is_grad_enabled():
        return _computed(function, x, tokens)
    kept = _Kept.apply(x, function, tokens, *parameters)  # type: ignore[no-untyped-call]
    out: Tensor = _Result.apply(kept, function, tokens)  # type: ignore[no-untyped-call]
    return out


class _Kept(torch.autograd.Function):
    """x as it is; backward, from the gradient of function(x) to those of x and of the parameters.

    Apart from `_Result`, so that a checkpointed block that is computed again stops here, where the last tensor is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Function, tokens: int, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function, ctx.tokens, ctx.parameters = function, tokens, parameters
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (x,), parameters = ctx.saved_tensors, ctx.parameters
        rows, upstream = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, x.shape[-1])
        dx, sums = torch.empty_like(rows), [TileSum() for _ in parameters]
        with gathering(len(rows)):
            for here in _tiles(rows, ctx.tokens):
                with torch.enable_grad():
                    tile = rows[None, here].detach().requires_grad_()
                    out = ctx.function(tile)
                found = torch.autograd.grad(out, [tile, *parameters], upstream[None, here], allow_unused=True)
                del out
                dx[here] = found[0][0]
                for total, term in zip(sums, found[1:], strict=True):
                    if term is not None:
                        total.add(term)
                    del term
                del found
        return (dx.view_as(x), None, None, *(None if total.value is None else total.take() for total in sums))


class _Result(torch.autograd.Function):
    """function(x); its gradient goes through as it is, to where x was kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Function, tokens: int) -> Tensor:
        return _computed(function, x, tokens)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream[0], None, None


@torch.no_grad()
def _computed(function: Function, x: Tensor, tokens: int) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= tokens:
        return _alike(function, x)
    out = torch.empty_like(rows)
    for here in _tiles(rows, tokens):
        out[here] = _alike(function, rows[None, here])[0]
    return out.view_as(x)


def _alike(function: Function, x: Tensor) -> Tensor:
    made = function(x)
    if made.shape != x.shape or made.dtype != x.dtype:
        raise TypeError(f"a tile gives {made.dtype} of shape {[*made.shape]} for {x.dtype} {[*x.shape]}")
    return made


def _tiles(rows: Tensor, tokens: int) -> Iterator[slice]:
    return (slice(at, at + tokens) for at in range(0, len(rows), tokens))
