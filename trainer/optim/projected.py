"""A projected parameter: gradients enter the hook as m×n and stay as r×b  (GaLore, arXiv 2403.03507).

Written once for the oriented weight (a, b). What is special about a method is in the parts, see `trainer.optim.parts`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.ops.paths import Problem
from galore.kernels.rules.residual import column_squares, noise_floor, residual_squares
from galore.kernels.span import span
from galore.trainer.optim.parts.inner import Inner
from galore.trainer.optim.parts.refresh import Gradient, Refresh
from galore.trainer.optim.parts.residual import ResidualRule
from galore.trainer.optim.parts.shards import Spread
from galore.trainer.optim.parts.storage import CODES, Projector
from galore.trainer.optim.parts.subspace.base import Subspace
from galore.trainer.optim.parts.subspace.schedule import RefreshSchedule
from galore.trainer.optim.parts.transport import TransportRule
from galore.trainer.optim.parts.weight import Weight
from galore.trainer.optim.ranks import Part
from galore.trainer.optim.slot import FullSlot, Update


class ProjectedSlot(FullSlot):
    """A matrix whose optimizer lives in an r-dimensional subspace; its state adds what the parts store."""

    def __init__(
        self,
        weight: Weight,
        inner: Inner,
        compensated: bool,
        *,
        subspace: Subspace,
        refresh: Refresh,
        transport: TransportRule,
        residual: ResidualRule,
    ) -> None:
        super().__init__(weight, inner, refresh.sum, compensated)
        self.subspace, self.refresh, self.transport, self.residual = subspace, refresh, transport, residual
        self.moved = False  # whether an update has been applied since the last step began
        self.factored = False  # whether the layer's own backward hands over factors, see `factored`

    @property
    def fallbacks(self) -> int:
        return self.inner.fallbacks + self.subspace.fallbacks

    @property
    def rank(self) -> int:
        """r, after clamping."""
        return self.subspace.rank

    @property
    def transposed(self) -> bool:
        """Whether the oriented weight is the transpose of the stored one."""
        return self.subspace.transposed

    @property
    def projector(self) -> Tensor:
        """P (a, r) in the dtype of the weight."""
        return self.subspace.projector

    @property
    def schedule(self) -> RefreshSchedule:
        return self.subspace.schedule

    @property
    def due(self) -> bool:
        """Whether the step being accumulated finds this layer a new subspace."""
        return self.subspace.due

    @property
    def problem(self) -> Problem:
        """What the kernels are asked for, for `dispatch.explain`."""
        (m, n), scales = self.weight.matrix.shape, self.weight.scales
        moments = {"8bit": "dynamic", "fp8": "e4m3"}.get(self.inner.state_dtype, "float32")
        return Problem(
            (m, n),
            self.rank,
            self.parameter.dtype,
            moments,
            coded_projector=self.subspace.format.bits is not None,
            dense=self.residual.whole or self.residual.samples,
            group=1 if scales is None else n // scales.shape[1],
        )

    @property
    def has_gradient(self) -> bool:
        return self.refresh.has_gradient

    def receive(self, grad: Gradient) -> None:
        self.refresh.receive(grad)

    def parts(self) -> Iterator[Part]:
        return self.refresh.parts()

    def spread(self) -> Iterator[Spread]:
        return self.refresh.spread()

    def sends(self, turn: bool) -> dict[str, int]:
        return self.refresh.sends(turn and not self.subspace.drawn)

    def complete(self) -> None:
        self.refresh.complete()

    @property
    def applied(self) -> list[Tensor] | None:
        return self.refresh.applied

    def squared_norm(self) -> Tensor:
        return self.refresh.squared_norm()

    def apply(self, update: Update) -> None:
        if self.refresh.basis is not None:
            self._turn_to(self.refresh.basis, update.grad_scale)
        elif self.transport.forgets and self.subspace.note_draw() and self.inner.started:
            self.transport.redraw(self.inner)
        self._lift(update, self.residual.terms(self.refresh, update.grad_scale), self.transposed)
        if (basis := self.refresh.next_basis()) is not None:
            self._turn_to(basis, update.grad_scale)
        self.discard()
        self.moved = True

    def discard(self) -> None:
        self.refresh.discard()
        self.moved = False

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._state_tensors()
        yield from self.refresh.tensors()

    def planned_state(self) -> dict[str, Tensor]:
        of_rule = self.inner.planned(torch.Size((self.rank, self.subspace.held)))
        return of_rule | self._planned_compensation() | self.subspace.planned() | self.residual.planned()

    def _turn_to(self, basis: Projector, grad_scale: float) -> None:
        """Make `basis` the one to project on; the state of the inner rule follows as the transport says."""
        if basis.get(CODES) is self.state.get(CODES):
            return  # none was found, and the old one goes on
        before = None
        if self.subspace.exists and self.inner.started:
            with span("refresh"):
                before = self.residual.inside()
                self.transport.turn(
                    self.inner, lambda: self.subspace.change_to(basis), lambda: self._outside(grad_scale)
                )
                self.subspace.settle(basis)
        self.state.update(basis)
        if before is not None:
            with span("refresh"):
                self.residual.take_over(before)

    def _outside(self, grad_scale: float) -> Tensor | None:
        """Mean square (b,) of coordinates of grad_scale · G that P has not; None where G is gone or all is within."""
        whole, left = self.refresh.whole.value, self.subspace.a - self.rank
        if whole is None or left == 0:
            return None
        all_squares = column_squares(self.subspace.oriented(whole))
        squares = residual_squares(all_squares, self.subspace.project(whole).float(), self.subspace.gram)
        floor = noise_floor(whole.dtype, self.projector.dtype)
        return torch.maximum(squares, floor * all_squares).mul_(grad_scale**2 / left)
