"""What becomes of the inner rule's state when a layer's basis changes: a class per way, in a table."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from galore.kernels.family import Transport
from galore.trainer.optim.parts.inner import Inner


class Keep:
    """The state as it is, as in GaLore: what belonged to an old basis vector goes on with the new one in its place."""

    def turn(self, inner: Inner, change: Callable[[], Tensor]) -> None:
        """After a basis is found anew; `change` gives C (r, r) = P_newᵀ P_old."""

    def redraw(self, inner: Inner) -> None:
        """After a basis is drawn anew, and the old one is gone."""


class Reset(Keep):
    """Nothing of the state, and steps counted from 0, as in FRUGAL (arXiv 2411.07837)."""

    def turn(self, inner: Inner, change: Callable[[], Tensor]) -> None:
        inner.reset()

    def redraw(self, inner: Inner) -> None:
        inner.reset()


class Rotate(Keep):
    """The state in coordinates of the new basis, as in LDAdam (arXiv 2410.16103); one that is drawn tells of no change."""

    def turn(self, inner: Inner, change: Callable[[], Tensor]) -> None:
        inner.rotate(change())


TRANSPORTS: dict[Transport, Keep] = {"keep": Keep(), "reset": Reset(), "rotate": Rotate()}
