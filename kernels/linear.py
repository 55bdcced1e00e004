"""A linear layer whose backward hands over its factors instead of the weight gradient they would make.

For y = x Wᵀ the gradient G = δᵀ x (m, n) is a product of two thin matrices, and so are the two things a projected
optimizer wants of it. With s the factor on the side of W that is projected and l the other one, G oriented is sᵀ l:

    R = Pᵀ G = (s P)ᵀ l        Y = G Ω = sᵀ (l Ω)

For B rows this costs 2Br(m + n) FLOPs where forming G first costs 2Bmn + 2rmn.

Where a backward goes through its rows in tiles, the factors of all of them never exist: R, Y or G are sums over tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

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
        x, dy = as_rows(x), as_rows(dy)
        if transposed is None:
            transposed = is_transposed((dy.shape[1], x.shape[1]))
        return cls(x, dy, True) if transposed else cls(dy, x, False)

    def project(self, p: Tensor) -> Tensor:
        """R (r, b) = Pᵀ G for p (a, r)."""
        return (self.side @ p.to(self.side.dtype)).mT @ self.other

    def sketch(self, omega: Tensor) -> Tensor:
        """Y (a, r) = G Ω for omega (b, r)."""
        return self.side.mT @ (self.other @ omega.to(self.other.dtype))

    def part(self, columns: slice) -> Tensor:
        """Some columns (a, k) of G."""
        return self.side.mT @ self.other[:, columns]

    def multiply(self) -> Tensor:
        """The gradient (m, n) as the weight is stored."""
        return self.other.mT @ self.side if self.transposed else self.side.mT @ self.other


class Pieces:
    """G as the sum over tiles of rows, of which only that is kept which will be asked for: R, Y, columns, or else all.

    Sums are fp32 at least, and rounded once, when the last tile is in.
    """

    def __init__(self, p: Tensor | None = None, omega: Tensor | None = None, columns: slice | None = None) -> None:
        self.p, self.omega, self.columns = p, omega, columns
        self.projected, self.sketched, self.sampled, self.whole = TileSum(), TileSum(), TileSum(), TileSum()

    def add(self, factors: Factors) -> None:
        """One more tile."""
        if self.p is not None:
            self.projected.add(factors.project(self.p))
        if self.omega is not None:
            self.sketched.add(factors.sketch(self.omega))
        if self.columns is not None:
            self.sampled.add(factors.part(self.columns))
        if self.p is None and self.omega is None:
            self.whole.add(factors.multiply())

    def project(self, p: Tensor) -> Tensor:
        """R (r, b), on the basis that was given beforehand."""
        return self.projected.take()

    def sketch(self, omega: Tensor) -> Tensor:
        """Y (a, r), with the Ω that was given beforehand."""
        return self.sketched.take()

    def part(self, columns: slice) -> Tensor:
        """The columns (a, k) of G that were named beforehand."""
        return self.sampled.take()

    def multiply(self) -> Tensor:
        """The gradient (m, n) as the weight is stored."""
        return self.whole.take()


class TileSum:
    """Σ over tiles in fp32 or better. Of a single one it is that one, to the bit."""

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.dtype: torch.dtype | None = None

    def add(self, term: Tensor) -> None:
        """Add `term`, which the caller gives up."""
        if self.value is None:
            self.value, self.dtype = term, term.dtype
        else:
            self.value = self.value.to(torch.promote_types(term.dtype, torch.float32)).add_(term)

    def take(self) -> Tensor:
        """Return the sum in the type of its terms, and forget it."""
        value, self.value = self.value, None
        assert value is not None, "no tile came"
        return value.to(self.dtype)


class _Tiles(NamedTuple):
    rows: int  # of all tiles
    gathered: dict[Hashable, tuple[Pieces, Callable[[Pieces], None]]]


_under_way: list[_Tiles] = []


@contextmanager
def gathering(rows: int) -> Iterator[None]:
    """A backward of `rows` rows in tiles: what receivers `gather` inside they are given at the end, as one gradient."""
    tiles = _Tiles(rows, {})
    _under_way.append(tiles)
    try:
        yield
    finally:
        _under_way.pop()
    for pieces, receive in tiles.gathered.values():
        receive(pieces)


def in_tiles() -> bool:
    """Whether a backward by tiles is under way, whose factors are to be gathered."""
    return bool(_under_way)


def gather(
    key: Hashable, factors: Factors, begin: Callable[[], Pieces], receive: Callable[[Factors | Pieces], None]
) -> None:
    """Hand `factors` to `receive`; in a backward by tiles add them to the pieces of `key`, which it gets at the end."""
    if not _under_way:
        receive(factors)
        return
    gathered = _under_way[-1].gathered
    if key not in gathered:
        gathered[key] = begin(), receive
    gathered[key][0].add(factors)


def as_rows(x: Tensor) -> Tensor:
    """x (…, n) as (rows, n); a vector (n,) is one row."""
    return x.unsqueeze(0) if x.ndim < 2 else x.flatten(0, -2)


def rows_of(x: Tensor) -> int:
    """Rows of x (…, n); of a tile those of all tiles."""
    return _under_way[-1].rows if _under_way else x.shape[:-1].numel()


def saves_work(rows: int, m: int, n: int, rank: int) -> bool:
    """Whether projecting the factors of `rows` rows needs fewer FLOPs than projecting their product."""
    return rows * rank * (m + n) < m * n * (rows + rank)


class Products(Protocol):
    """Who multiplies in a linear layer; a weight (m, n) is given with its scales where it is in int8."""

    def forward(self, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        """x Wᵀ for x (…, n)."""

    def input_gradient(self, dy: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        """δ W for δ (…, m)."""


class Plain:
    """Both products in the weight's own dtype."""

    def forward(self, x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        return torch.nn.functional.linear(x, weight)

    def input_gradient(self, dy: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
        return dy @ weight


PLAIN = Plain()


class Factored(NamedTuple):
    """How a linear layer gives away the factors of its weight's gradient, and who multiplies in it.

    `in_graph`: whether autograd comes to the weight after the layer's backward, with no gradient; its hooks are called.
    """

    receive: Callable[[Factors], None]
    transposed: bool | None = None
    products: Products = PLAIN
    in_graph: bool = True


def as_autocast(x: Tensor) -> Tensor:
    """x in the type that torch.autocast has linear layers multiply in; x itself where none is on, or it is float64."""
    kind = x.device.type
    if x.dtype == torch.float64 or not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return x
    return x.to(torch.get_autocast_dtype(kind))


def factored_linear(x: Tensor, weight: Tensor, by: Factored) -> Tensor:
    """x Wᵀ for x (…, n), weight (m, n); the backward calls `by.receive` in place of making a gradient for `weight`."""
    # where x needs no gradient, there is a backward for the weight's sake alone
    tracked = weight if by.in_graph or not x.requires_grad else None
    out: Tensor = _FactoredLinear.apply(as_autocast(x), tracked, (weight, by))  # type: ignore[no-untyped-call]
    return out


class _FactoredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tracked: Tensor | None, given: tuple[Tensor, Factored]) -> Tensor:
        weight, by = given
        ctx.save_for_backward(x, weight)
        ctx.by = by
        # autocast would keep its own cast of the weight until it ends, and older versions of it one without a graph
        return by.products.forward(x, as_autocast(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, None, None]:
        (x, weight), (dy,), by = ctx.saved_tensors, grads, ctx.by
        # first: the receiver may update the weight at once
        dx = by.products.input_gradient(dy, weight.to(dy.dtype)) if ctx.needs_input_grad[0] else None
        by.receive(Factors.of(x.to(weight.dtype), dy.to(weight.dtype), by.transposed))
        return dx, None, None


def product_linear(x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
    """x Wᵀ + bias by `products`; the gradient of the weight, where it is wanted, is multiplied in the dtype of x."""
    bias = None if bias is None else as_autocast(bias)
    out: Tensor = _ProductLinear.apply(as_autocast(x), weight, bias, products)  # type: ignore[no-untyped-call]
    return out


class _ProductLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.products = products
        y = products.forward(x, as_autocast(weight))
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x, weight), (dy,) = ctx.saved_tensors, grads
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        dx = ctx.products.input_gradient(dy, weight.to(dy.dtype)) if wants_x else None
        dw = as_rows(dy).mT @ as_rows(x) if wants_weight else None
        return dx, dw, as_rows(dy).sum(0) if wants_bias else None, None
