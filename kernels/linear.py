"""A linear layer whose backward hands over its factors instead of the weight gradient they would make.

For y = x Wᵀ the gradient G = δᵀ x (m, n) is a product of two thin matrices, and so are the two things a projected
optimizer wants of it. With s the factor on the side of W that is projected and l the other one, G oriented is sᵀ l:

    R = Pᵀ G = (s P)ᵀ l        Y = G Ω = sᵀ (l Ω)

For B rows this costs 2Br(m + n) FLOPs where forming G first costs 2Bmn + 2rmn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galore.kernels.reference.operations import is_transposed


class Factors(NamedTuple):
    """G oriented (a, b) = sideᵀ @ other: one micro-batch's weight gradient, not multiplied out."""

    side: Tensor  # (B, a)
    other: Tensor  # (B, b)
    transposed: bool  # the weight itself is (b, a)

    @classmethod
    def of(cls, x: Tensor, dy: Tensor, transposed: bool | None = None) -> Factors:
        """Factors from inputs x (…, n) and output gradients dy (…, m) of a weight (m, n); None: the smaller side."""
        x, dy = x.flatten(0, -2), dy.flatten(0, -2)
        if transposed is None:
            transposed = is_transposed((dy.shape[1], x.shape[1]))
        return cls(x, dy, True) if transposed else cls(dy, x, False)

    def project(self, p: Tensor) -> Tensor:
        """R (r, b) = Pᵀ G for p (a, r)."""
        return (self.side @ p.to(self.side.dtype)).mT @ self.other

    def sketch(self, omega: Tensor) -> Tensor:
        """Y (a, r) = G Ω for omega (b, r)."""
        return self.side.mT @ (self.other @ omega.to(self.other.dtype))

    def multiply(self) -> Tensor:
        """The gradient (m, n) as the weight is stored."""
        return self.other.mT @ self.side if self.transposed else self.side.mT @ self.other


def saves_work(rows: int, m: int, n: int, rank: int) -> bool:
    """Whether projecting the factors of `rows` rows needs fewer FLOPs than projecting their product."""
    return rows * rank * (m + n) < m * n * (rows + rank)


def factored_linear(
    x: Tensor, weight: Tensor, receive: Callable[[Factors], None], transposed: bool | None = None
) -> Tensor:
    """x Wᵀ for x (…, n), weight (m, n); the backward calls `receive` in place of making a gradient for `weight`."""
    out: Tensor = _FactoredLinear.apply(x, weight, receive, transposed)  # type: ignore[no-untyped-call]
    return out


class _FactoredLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, receive: Callable[[Factors], None], transposed: bool | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.receive, ctx.transposed = receive, transposed
        return torch.nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        (dy,) = grads
        dx = dy @ weight if ctx.needs_input_grad[0] else None  # first: the receiver may update the weight at once
        ctx.receive(Factors.of(x, dy, ctx.transposed))
        return dx, None, None, None
