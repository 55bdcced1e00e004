"""A linear layer whose backward hands over its factors instead of the weight gradient they would make.

For y = x Wᵀ the gradient G = δᵀ x (m, n) is a product of two thin matrices, and so are the two things a projected
optimizer wants of it. With s the factor on the smaller side of W and l the other one, G oriented is sᵀ l:

    R = Pᵀ G = (s P)ᵀ l        Y = G Ω = sᵀ (l Ω)

For B rows this costs 2Br(m + n) FLOPs where forming G first costs 2Bmn + 2rmn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """G oriented (a, b) = shortᵀ @ long: one micro-batch's weight gradient, not multiplied out."""

    short: Tensor  # (B, a)
    long: Tensor  # (B, b)
    transposed: bool  # the weight itself is (b, a)

    @classmethod
    def of(cls, x: Tensor, dy: Tensor) -> Factors:
        """From inputs x (…, n) and output gradients dy (…, m) of a weight (m, n)."""
        x, dy = x.flatten(0, -2), dy.flatten(0, -2)
        return cls(x, dy, True) if dy.shape[1] >= x.shape[1] else cls(dy, x, False)

    def project(self, p: Tensor) -> Tensor:
        """R (r, b) = Pᵀ G for p (a, r)."""
        return (self.short @ p.to(self.short.dtype)).mT @ self.long

    def sketch(self, omega: Tensor) -> Tensor:
        """Y (a, r) = G Ω for omega (b, r)."""
        return self.short.mT @ (self.long @ omega.to(self.long.dtype))

    def multiply(self) -> Tensor:
        """The gradient (m, n) as the weight is stored."""
        return self.long.mT @ self.short if self.transposed else self.short.mT @ self.long


def saves_work(rows: int, m: int, n: int, rank: int) -> bool:
    """Whether projecting the factors of `rows` rows needs fewer FLOPs than projecting their product."""
    return rows * rank * (m + n) < m * n * (rows + rank)


def factored_linear(x: Tensor, weight: Tensor, receive: Callable[[Factors], None]) -> Tensor:
    """x Wᵀ for x (…, n), weight (m, n); the backward calls `receive` in place of making a gradient for `weight`."""
    out: Tensor = _FactoredLinear.apply(x, weight, receive)  # type: ignore[no-untyped-call]
    return out


class _FactoredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, receive: Callable[[Factors], None]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.receive = receive
        return torch.nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (dy,) = grads
        dx = dy @ weight if ctx.needs_input_grad[0] else None  # first: the receiver may update the weight at once
        ctx.receive(Factors.of(x, dy))
        return dx, None, None
