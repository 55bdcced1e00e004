"""What becomes of the inner rule's state when a layer's basis changes: a class per way, in a table."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from galore.kernels.family import Transport
from galore.trainer.optim.parts.inner import Inner


class TransportRule:
    """A way of going on; this one keeps the state as it is, as GaLore does."""

    forgets = False  # whether nothing goes on: a state then has to say of which draw it is

    def turn(self, inner: Inner, change: Callable[[], Tensor], outside: Callable[[], Tensor | None]) -> None:
        """What happens after a basis is found anew; `change` gives C (r, r) = P_newᵀ P_old.

        `outside` gives the mean square (b,) of the gradient's coordinates that P_old had not, where that is known.
        """

    def redraw(self, inner: Inner) -> None:
        """What happens after a basis is drawn anew, and the old one is gone."""


class Reset(TransportRule):
    """Nothing of the state goes on, as in FRUGAL  (arXiv 2411.07837)."""

    forgets = True

    def turn(self, inner: Inner, change: Callable[[], Tensor], outside: Callable[[], Tensor | None]) -> None:
        inner.reset()

    def redraw(self, inner: Inner) -> None:
        inner.reset()


class Rotate(TransportRule):
    """The state in the coordinates of the new basis, as in LDAdam  (arXiv 2410.16103); one that is drawn has none."""

    def turn(self, inner: Inner, change: Callable[[], Tensor], outside: Callable[[], Tensor | None]) -> None:
        inner.rotate(change())


class Complete(TransportRule):
    """The state rotated, new directions starting from the mean square of what lay outside, not from nothing."""

    def turn(self, inner: Inner, change: Callable[[], Tensor], outside: Callable[[], Tensor | None]) -> None:
        inner.rotate(change(), outside())


TRANSPORTS: dict[Transport, TransportRule] = {
    "keep": TransportRule(),
    "reset": Reset(),
    "rotate": Rotate(),
    "complete": Complete(),
}
