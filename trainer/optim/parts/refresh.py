"""The gradients of a step as a projected layer takes them in, and which give a new basis: a class per mode.

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
from galore.kernels.linear import Factors, Pieces
from galore.trainer.optim.parts.hostsum import NewSum
from galore.trainer.optim.parts.shards import Spread
from galore.trainer.optim.parts.storage import GradientSum, Projector
from galore.trainer.optim.parts.subspace import Subspace
from galore.trainer.optim.parts.weight import as_matrix
from galore.trainer.optim.ranks import Part, Ranks

Gradient = Tensor | Factors | Pieces


class Refresh:
    """Σ Pᵀ Gᵢ of a step, with the layer's basis or, when its turn has come, as the mode says.

    Args:
        dtype: of sums of gradients.
        accumulation: micro-batches of a step, where known.
        ranks: processes that train together, all on the same basis.
        whole: what sums whole gradients.
    """

    def __init__(
        self,
        subspace: Subspace,
        dtype: torch.dtype,
        accumulation: int | None,
        ranks: Ranks | None = None,
        whole: NewSum = GradientSum,
    ) -> None:
        self.subspace, self.ranks = subspace, ranks
        # What the last hook could free has to be summed over the ranks first.
        self.accumulation = accumulation if ranks is None else None
        self.sum, self.whole, self.sketch = GradientSum(dtype), whole(dtype), GradientSum(torch.float32)
        self.basis: Projector | None = None  # that this step's gradients are projected on, if it is a new one
        self.omega: Tensor | None = None
        self.received, self.poisoned = 0, False

    sketches = True  # whether a pass of its own wants no more than a sketch

    @property
    def has_gradient(self) -> bool:
        return self.sum.exists or self.whole.exists or self.poisoned

    @property
    def wants_pass(self) -> bool:
        """Whether this step's basis comes from an extra pass over the micro-batches."""
        return False

    def passes(self, first: bool) -> bool:
        """Whether a turn is such a pass where there are ranks, that of the `first` step or a later one."""
        return False

    @property
    def keeps_whole(self) -> bool:
        """Whether the step being accumulated sums the gradient itself: the same on all ranks, whatever they receive."""
        return False

    @property
    def takes_factors(self) -> bool:
        """Whether the step being accumulated can do without the whole gradient."""
        return not self.subspace.due

    def receive(self, grad: Gradient) -> None:
        """Take over one micro-batch's gradient, of the parameter's shape or not multiplied out."""
        self.received += 1
        if self.subspace.due:
            self._receive_due(grad if self.takes_factors else multiplied(grad))
        else:
            self.sum.add(self.subspace.project(grad))

    def add_to_sketch(self, grad: Gradient) -> None:
        """Y += G Ω, (a, r), with Ω fixed over the micro-batches of a step, in the dtype that the products take."""
        self.sketch.add(self.subspace.sketch(grad, self.test_matrix()))

    def test_matrix(self) -> Tensor:
        """Ω (b, r) of this step."""
        self.omega = (self.subspace.test_matrix() if self.omega is None else self.omega).to(self.subspace.weight.dtype)
        return self.omega

    def parts(self) -> Iterator[Part]:
        """What ranks add up in this step."""
        if self.keeps_whole:
            yield Part(self.whole, tuple(self.subspace.weight.shape))
        elif self.subspace.columns is None:
            yield Part(self.sum, (self.subspace.rank, self.subspace.b))

    def spread(self) -> Iterator[Spread]:
        """The sum, where each rank keeps its own columns of it."""
        if self.subspace.columns is not None and not self.keeps_whole:
            yield Spread(self.sum, (self.subspace.rank, self.subspace.b), self.subspace.columns)

    def sketched(self) -> Iterator[Part]:
        """What ranks add up of a pass of its own."""
        yield Part(self.sketch, (self.subspace.a, self.subspace.rank))

    def sends(self, turn: bool) -> dict[str, int]:
        """Bytes, by kind, that go from this rank to the others in a step; on its `turn` one that finds a basis."""
        return {"projected sums": self.subspace.rank * self.subspace.b * self.sum.dtype.itemsize}

    def finish_sketch(self) -> None:
        """Turn a sketch pass into the basis that this step will project on."""
        if self.sketch.exists:
            self.basis, self.omega = self.subspace.of_sketch(self.sketch.take()), None

    def complete(self) -> None:
        """Called once all micro-batches are in, before the norm is taken."""
        if self.whole.exists:
            self._project_on_new(self.whole.take())
            if self.sum.value is not None and self.subspace.columns is not None:
                self.sum.value = self.subspace.columns.of(self.sum.value).contiguous()

    def squared_norm(self) -> Tensor:
        """‖what is applied‖² as a float64 scalar."""
        if self.poisoned:
            return torch.full((), torch.nan, dtype=torch.float64, device=self._device)
        return self.sum.squared_norm()

    @property
    def _device(self) -> torch.device:
        return self.subspace.weight.parameter.device

    def next_basis(self) -> Projector | None:
        """The basis that serves from the next step on, where this step has found one."""
        return None

    def discard(self) -> None:
        """Forget the step's gradients."""
        self.sum.value = self.whole.value = self.sketch.value = self.basis = self.omega = None
        self.received, self.poisoned = 0, False

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(category of memory, tensor) for everything held now."""
        held = [("accumulators", self.sum), ("gradients", self.whole), ("accumulators", self.sketch)]
        yield from ((category, total.here) for category, total in held if total.here is not None)
        yield from (("projectors", tensor) for tensor in (self.basis or {}).values())

    def _receive_due(self, grad: Gradient) -> None:
        raise NotImplementedError

    def _find(self, grad: Tensor) -> None:
        """Find the step's basis in `grad`, unless it has one."""
        if self.basis is not None:
            return
        if not bool(torch.isfinite(grad).all()):
            self.poisoned = True
            return
        self.basis = self.subspace.of_gradient(grad)

    def _project_on_new(self, grad: Tensor) -> None:
        self._find(grad)
        if self.basis is not None:
            self.sum.add(self.subspace.project(grad, self.basis))


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
        return whole_gradient(self) if turn else super().sends(turn)

    def _receive_due(self, grad: Gradient) -> None:
        self.whole.add(multiplied(grad))
        if self.received == self.accumulation:
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


def whole_gradient(refresh: Refresh) -> dict[str, int]:
    """Bytes that go to the other ranks where they sum the gradient (m, n) itself."""
    return {"whole gradients": refresh.subspace.weight.parameter.numel() * refresh.whole.dtype.itemsize}


def multiplied(grad: Gradient) -> Tensor:
    """The gradient (m, n)."""
    return as_matrix(grad) if isinstance(grad, Tensor) else grad.multiply()
