"""The gradients of a step as a projected layer takes them in, sums them and lets them be projected."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.linear import Factors, Pieces
from galore.trainer.optim.parts.hostsum import NewSum
from galore.trainer.optim.parts.shards import Spread
from galore.trainer.optim.parts.storage import GradientSum, Projector, squared_norm
from galore.trainer.optim.parts.subspace.base import Subspace
from galore.trainer.optim.parts.weight import as_matrix
from galore.trainer.optim.ranks import Part, Ranks

Gradient = Tensor | Factors | Pieces


class SampledColumns:
    """A share of the b columns of an oriented weight (a, b) at a time, block after block; a turn lasts one gap.

    All blocks have one width, so that every step holds as much: the last one begins before the one before it ends.

    Args:
        dtype: of the sum of gradients.
    """

    def __init__(self, subspace: Subspace, dtype: torch.dtype) -> None:
        self.subspace, self.sum = subspace, GradientSum(dtype)
        self.width = sampled_width(subspace.weight.group["sampled_share"], subspace.b)

    @property
    def turn(self) -> int:
        """Which turn the step being accumulated belongs to."""
        return self.subspace.schedule.turn(self.subspace.clock())

    @property
    def block(self) -> slice:
        """The columns whose turn it is; layers begin at different ones."""
        blocks = math.ceil(self.subspace.b / self.width)
        first = (self.turn + self.subspace.weight.index) % blocks * self.width
        first = min(first, self.subspace.b - self.width)
        return slice(first, first + self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (a, k) of the sum."""
        return self.subspace.a, self.width

    def add(self, grad: Gradient) -> None:
        """Take over the columns of one micro-batch's gradient, which stays the caller's."""
        self.sum.add(self.subspace.part(grad, self.block))

    def beside(self, r: Tensor) -> list[Tensor]:
        """What a step applies, given its whole R (r, b): R of the other columns, and the sum."""
        here = self.sum.here
        found = [r[:, : self.block.start], r[:, self.block.stop :], *([] if here is None else [here])]
        return [each for each in found if each.numel() > 0]


def sampled_width(share: float, b: int) -> int:
    """How many of b columns have their turn at a time: an even number, as two of 4 bits lie in a byte, or all."""
    return min(b, 2 * math.ceil(share * b / 2))


class Refresh:
    """Σ Pᵀ Gᵢ of a step, with the layer's basis or, when its turn has come, as the mode says.

    Args:
        dtype: of sums of gradients.
        accumulation: micro-batches of a step, where known.
        ranks: processes that train together, all on the same basis.
        whole: what sums whole gradients.
        sampled: columns that are taken over beside R, if any are.
    """

    def __init__(
        self,
        subspace: Subspace,
        dtype: torch.dtype,
        accumulation: int | None,
        ranks: Ranks | None = None,
        whole: NewSum = GradientSum,
        sampled: SampledColumns | None = None,
    ) -> None:
        self.subspace, self.ranks, self.sampled = subspace, ranks, sampled
        # What the last hook could free has to be summed over the ranks first.
        self.accumulation = accumulation if ranks is None else None
        self.sum, self.whole, self.sketch = GradientSum(dtype), whole(dtype), GradientSum(torch.float32)
        self.basis: Projector | None = None  # that this step's gradients are projected on, if it is a new one
        self.omega: Tensor | None = None
        self.received, self.poisoned = 0, False
        self.awaited, self.several = 0, False  # factors of this step, and whether two were awaited at a time

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

    def expect(self) -> None:
        """Called by a forward whose backward will hand over factors: of a layer used twice, parts of one gradient."""
        self.awaited += 1

    def receive(self, grad: Gradient) -> None:
        """Take over one micro-batch's gradient, of the parameter's shape or not multiplied out."""
        self.received += 1
        self.several |= self.awaited > self.received
        grad = grad if self.takes_factors else multiplied(grad)
        if self.sampled is not None:
            self.sampled.add(grad)
        if self.subspace.due:
            self._receive_due(grad)
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
        if self.sampled is not None:
            yield Part(self.sampled.sum, self.sampled.shape)

    def spread(self) -> Iterator[Spread]:
        """The sum, where each rank keeps its own columns of it."""
        if self.subspace.columns is not None and not self.keeps_whole:
            yield Spread(self.sum, (self.subspace.rank, self.subspace.b), self.subspace.columns)

    def sketched(self) -> Iterator[Part]:
        """What ranks add up of a pass of its own."""
        yield Part(self.sketch, (self.subspace.a, self.subspace.rank))

    def sends(self, turn: bool) -> dict[str, int]:
        """Bytes, by kind, that go from this rank to the others in a step; on its `turn` one that finds a basis."""
        projected = {"projected sums": self.subspace.rank * self.subspace.b * self.sum.dtype.itemsize}
        return projected | self._sends_beside()

    def _sends_beside(self) -> dict[str, int]:
        if self.sampled is None:
            return {}
        return {"sampled columns": math.prod(self.sampled.shape) * self.sum.dtype.itemsize}

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

    @property
    def applied(self) -> list[Tensor] | None:
        """What is applied, in tensors of which none has what another has; None where it is not on the device."""
        if self.poisoned:
            return None
        held = (self.whole if self.whole.exists else self.sum).here
        if held is None:
            return None
        return [held] if self.sampled is None else self.sampled.beside(held)

    def squared_norm(self) -> Tensor:
        """‖what is applied‖² as a float64 scalar."""
        if self.poisoned:
            return torch.full((), torch.nan, dtype=torch.float64, device=self._device)
        if self.sampled is None:
            return self.sum.squared_norm()
        held = self.sum.value
        assert held is not None, "nothing was accumulated"
        return torch.stack([squared_norm(each) for each in self.sampled.beside(held)]).sum()

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
        self.awaited, self.several = 0, False
        if self.sampled is not None:
            self.sampled.sum.value = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(category of memory, tensor) for everything held now."""
        held = [("accumulators", self.sum), ("gradients", self.whole), ("accumulators", self.sketch)]
        held += [("accumulators", self.sampled.sum)] if self.sampled is not None else []
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


def whole_gradient(refresh: Refresh) -> dict[str, int]:
    """Bytes that go to the other ranks where they sum the gradient (m, n) itself."""
    return {"whole gradients": refresh.subspace.weight.parameter.numel() * refresh.whole.dtype.itemsize}


def multiplied(grad: Gradient) -> Tensor:
    """The gradient (m, n)."""
    return as_matrix(grad) if isinstance(grad, Tensor) else grad.multiply()
