"""Which gradient gives a layer a new basis: a class per mode, in a table.

first-micro-batch  the first gradient of the step, while it is alive in the hook
summed             the sum of the step's gradients, held whole for the layers being refreshed
two-pass           a linear sketch Σ Gᵢ Ω from an extra pass over the micro-batches
delayed            the sketch is gathered beside the projection; the new basis serves from the next step on
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.family import RefreshMode
from galore.trainer.optim.parts.refresh import Gradient, Refresh, multiplied, whole_gradient
from galore.trainer.optim.parts.storage import Projector
from galore.trainer.optim.ranks import Part


class Found(Refresh):
    """A basis that is found before anything is projected on it, in a pass of its own or in the step's first gradient.

    Where there are ranks, what no pass has found a basis for is summed whole: within a backward nobody waits for
    others, one of whom may have no gradient of this layer.
    """

    @property
    def keeps_whole(self) -> bool:
        return self.ranks is not None and self.subspace.due and self.basis is None

    def passes(self, first: bool) -> bool:
        return not self.subspace.drawn

    @property
    def _turn(self) -> bool:
        """Whether it is this layer's turn, and there is no basis yet."""
        # a weight that never gets a gradient is due for ever
        return self.subspace.schedule.due(self.subspace.clock()) and self.subspace.due and self.basis is None

    def _receive_due(self, grad: Gradient) -> None:
        if self.keeps_whole:
            self.whole.add(multiplied(grad))
        else:
            self._project_on_new(multiplied(grad))


class FirstMicroBatch(Found):
    """The basis of the step's first gradient: which one that is depends on the split into micro-batches.

    Of several ranks the first one finds it, in a pass of its first micro-batch alone, and the others copy it.
    """

    sketches = False

    @property
    def wants_pass(self) -> bool:
        return self.ranks is not None and self._turn

    def add_to_sketch(self, grad: Gradient) -> None:
        whole = multiplied(grad)
        if self.ranks is not None and self.ranks.rank == 0 and bool(torch.isfinite(whole).all()):
            self.basis = self.subspace.of_gradient(whole)

    def sends(self, turn: bool) -> dict[str, int]:
        bases = {"bases": sum(each.nbytes for each in self.subspace.planned().values())}
        return super().sends(turn) | (bases if turn else {})

    def copied(self) -> list[Tensor]:
        """The basis as the first rank has found it; elsewhere room for it."""
        if self.basis is None:
            planned = self.subspace.planned().items()
            self.basis = {name: torch.empty_like(each, device=self._device) for name, each in planned}
        return list(self.basis.values())


class Summed(Refresh):
    """The basis of the step's summed gradient."""

    @property
    def keeps_whole(self) -> bool:
        return self.subspace.due

    def sends(self, turn: bool) -> dict[str, int]:
        return whole_gradient(self) | self._sends_beside() if turn else super().sends(turn)

    def _receive_due(self, grad: Gradient) -> None:
        self.whole.add(multiplied(grad))
        if self.received == self.accumulation and not self.several:
            self.complete()


class TwoPass(Found):
    """The basis of a sketch from a pass of its own; without that pass, of the first gradient."""

    @property
    def wants_pass(self) -> bool:
        return self._turn

    def sends(self, turn: bool) -> dict[str, int]:
        sketches = {"sketches": self.subspace.a * self.subspace.rank * self.sketch.dtype.itemsize}
        return Refresh.sends(self, turn) | (sketches if turn else {})


class Delayed(TwoPass):
    """The old basis once more, and beside it the sketch of the next one; the first as in `TwoPass`."""

    @property
    def wants_pass(self) -> bool:
        return not self.subspace.exists and super().wants_pass

    def passes(self, first: bool) -> bool:
        return super().passes(first) and first

    @property
    def takes_factors(self) -> bool:
        return self.subspace.exists or super().takes_factors

    @property
    def keeps_whole(self) -> bool:
        return super().keeps_whole and not self.subspace.exists

    def parts(self) -> Iterator[Part]:
        yield from super().parts()
        if self.subspace.due and self.subspace.exists:
            yield from self.sketched()

    def next_basis(self) -> Projector | None:
        return None if not self.sketch.exists else self.subspace.of_sketch(self.sketch.take())

    def _receive_due(self, grad: Gradient) -> None:
        if not self.subspace.exists:
            super()._receive_due(grad)
            return
        self.sum.add(self.subspace.project(grad))
        self.add_to_sketch(grad)


class Whole(Refresh):
    """The step's summed gradient, held whole until the update takes it; a basis is that of the sum."""

    takes_factors = False
    keeps_whole = True

    def sends(self, turn: bool) -> dict[str, int]:
        return whole_gradient(self)

    def receive(self, grad: Gradient) -> None:
        self.whole.add(multiplied(grad))

    def complete(self) -> None:
        if self.whole.exists and self.subspace.due:
            whole = self.whole.value
            assert whole is not None
            self._find(whole)

    def squared_norm(self) -> Tensor:
        return self.whole.squared_norm()


REFRESHES: dict[RefreshMode, type[Refresh]] = {
    "first-micro-batch": FirstMicroBatch,
    "summed": Summed,
    "two-pass": TwoPass,
    "delayed": Delayed,
}
