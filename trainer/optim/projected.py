"""A projected parameter: gradients enter the hook as m×n and stay as r×b  (GaLore, arXiv 2403.03507).

Written once for the oriented weight (a, b). Which gradient a refresh of the subspace sees:

    first-micro-batch  the first gradient of the step, while it is alive in the hook
    summed             the sum of the step's gradients, kept whole for the layers being refreshed
    two-pass           a linear sketch Σ Gᵢ Ω from an extra pass over the micro-batches
    delayed            the sketch is gathered beside the projection; the new basis serves from the next step on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from galore.kernels.family import RefreshMode
from galore.kernels.linear import Factors
from galore.kernels.ops.paths import Problem
from galore.kernels.ops.projection import Dense, lift_update_, orient, project
from galore.kernels.storage.layout import Matrix
from galore.kernels.subspace import overlap
from galore.trainer.optim.member import as_matrix
from galore.trainer.optim.parts.refresh import RefreshSchedule, may_skip, settle
from galore.trainer.optim.parts.storage import CODES, GradientSum, Kept
from galore.trainer.optim.parts.subspace import KINDS, Subspace
from galore.trainer.optim.slot import FullSlot, Update


class ProjectedSlot(FullSlot):
    """A matrix whose optimizer lives in an r-dimensional subspace; its state adds what the subspace keeps."""

    def __init__(
        self,
        *args: Any,
        rank: int,
        mode: RefreshMode,
        schedule: RefreshSchedule,
        seed: int,
        clock: Callable[[], int],
        accumulation: int | None,
    ) -> None:
        super().__init__(*args)
        self.subspace: Subspace = KINDS[self.group["proj_type"]](self.member, rank, schedule, seed, clock)
        self.mode, self.schedule, self.clock, self.accumulation = mode, schedule, clock, accumulation
        self.whole, self.sketch = GradientSum(self.sum.dtype), GradientSum(torch.float32)
        self.pending: Kept | None = None  # the basis that this step's gradients are projected on, if it is a new one
        self._omega: Tensor | None = None
        self.received, self.poisoned = 0, False
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
    def problem(self) -> Problem:
        """What the kernels are asked for, for `dispatch.explain`."""
        (m, n), kept = self.member.matrix.shape, self.subspace.kept_dtype
        moments = {"8bit": "dynamic", "fp8": "e4m3"}.get(self.inner.state_dtype, "float32")
        scales = self.member.scales
        return Problem(
            (m, n),
            self.rank,
            self.parameter.dtype,
            moments,
            coded_projector=kept in ("int8", "int4"),
            dense=self.group["residual"] != "none",
            group=1 if scales is None else n // scales.shape[1],
        )

    @property
    def due(self) -> bool:
        """Whether the step being accumulated finds this layer a new subspace."""
        if self.group["proj_type"] == "random":
            return False
        turn = self.schedule.due(self.clock()) and not may_skip(self.state, self.clock())
        return turn or not self.subspace.exists

    @property
    def wants_sketch_pass(self) -> bool:
        """Whether this step's basis comes from an extra pass over the micro-batches."""
        by_pass = self.mode == "two-pass" or (self.mode == "delayed" and not self.subspace.exists)
        turn = self.schedule.due(self.clock())  # a weight that never gets a gradient is due for ever
        return turn and self.due and self.pending is None and by_pass

    @property
    def has_gradient(self) -> bool:
        return self.sum.value is not None or self.whole.value is not None or self.poisoned

    @property
    def takes_factors(self) -> bool:
        """Whether the step being accumulated can do without the whole gradient, see `factored`."""
        return not self.due or (self.mode == "delayed" and self.subspace.exists)

    def receive_factors(self, factors: Factors) -> None:
        """As `receive`, from a gradient that is not multiplied out."""
        if not self.takes_factors:
            self.receive(factors.multiply())
            return
        self.received += 1
        self.sum.add(factors.project(self.projector))
        if self.due:
            self.add_to_sketch(factors)

    def receive(self, grad: Tensor) -> None:
        grad = as_matrix(grad)
        self.received += 1
        if not self.due:
            self.sum.add(project(self.subspace.kept, self._oriented(grad)))
        elif self.mode == "summed":
            self.whole.add(grad)
            if self.received == self.accumulation:
                self.complete()
        elif self.mode == "delayed" and self.subspace.exists:
            self.sum.add(project(self.subspace.kept, self._oriented(grad)))
            self.add_to_sketch(grad)
        else:
            self._project_on_pending(grad)

    def add_to_sketch(self, grad: Tensor | Factors) -> None:
        """Y += G Ω, (a, r), with Ω fixed over the micro-batches of a step."""
        if isinstance(grad, Factors):
            self.sketch.add(grad.sketch(self._test_matrix_of_step()).float())
            return
        g = self._oriented(as_matrix(grad))
        self.sketch.add((g @ self._test_matrix_of_step().to(g.dtype)).float())

    def finish_sketch(self) -> None:
        """Turn a sketch pass into the basis that this step will project on."""
        if self.sketch.value is not None:
            self.pending, self._omega = self.subspace.of_sketch(self.sketch.take()), None

    def complete(self) -> None:
        if self.whole.value is not None:
            self._project_on_pending(self.whole.take())

    def squared_norm(self) -> Tensor:
        if self.poisoned:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.parameter.device)
        return super().squared_norm()

    def apply(self, update: Update) -> None:
        self._change_basis()
        direction = self.inner.direction(self.sum.take().contiguous(), update.grad_scale, self.member.dtype)
        self._lift(update, self.subspace.kept, direction)
        if self.sketch.value is not None:
            self._turn_to(self.subspace.of_sketch(self.sketch.take()))
        self.discard()

    def discard(self) -> None:
        super().discard()
        self.whole.value = self.sketch.value = self.pending = self._omega = None
        self.received, self.poisoned = 0, False

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for category, tensor in super().tensors():
            yield "accumulators" if category == "gradients" else category, tensor
        held = {"gradients": self.whole.value, "accumulators": self.sketch.value}
        yield from ((category, tensor) for category, tensor in held.items() if tensor is not None)
        yield from (("projectors", tensor) for tensor in (self.pending or {}).values())

    def planned_state(self) -> dict[str, Tensor]:
        of_rule = self.inner.planned(torch.Size((self.rank, self.subspace.b)))
        return of_rule | self._planned_compensation() | self.subspace.planned()

    def _lift(self, update: Update, p: Matrix | None, direction: Tensor | None, dense: Dense | None = None) -> None:
        """W ← (1 - ηλ) W + ηα (P N + D)."""
        lift_update_(
            self.member.matrix,
            p,
            direction,
            alpha=self._lr,
            decay=self._decay,
            decay_after=self.group["convention"] == "reference",
            noise=update.noise,
            tensor=self.member.index,
            compensation=self._compensation(),
            dense=dense,
            transposed=self.transposed,
            scales=self.member.scales,
        )

    def _change_basis(self) -> None:
        """Take up the basis that the step's gradients were projected on, if it is a new one."""
        if self.pending is not None:
            self._turn_to(self.pending)
        elif self.subspace.redrawn and self.group["transport"] == "reset" and "step" in self.state:
            self.inner.carry("reset", torch.eye(self.rank, device=self.parameter.device))

    def _turn_to(self, basis: Kept) -> None:
        """Make `basis` the one to project on; the state of the inner rule follows as the group's transport says."""
        kind, threshold = self.group["transport"], self.group["refresh_overlap"]
        if basis.get(CODES) is self.state.get(CODES):
            return  # none was found, and the old one goes on
        if self.subspace.exists and "step" in self.state:
            if kind != "keep":
                self.inner.carry(kind, self.subspace.change_to(basis))
            if threshold is not None:
                new = self.subspace.matrix(basis)
                similar = not new.is_meta and float(overlap(self.projector, new)) >= threshold
                settle(self.state, self.clock(), self.schedule.gap, similar)
        self.state.update(basis)

    def _project_on_pending(self, grad: Tensor) -> None:
        if self.pending is None:
            if not bool(torch.isfinite(grad).all()):
                self.poisoned = True
                return
            self.pending = self.subspace.of_gradient(grad)
        self.sum.add(project(self.subspace.matrix(self.pending), self._oriented(grad)))

    def _oriented(self, grad: Tensor) -> Tensor:
        return orient(grad, self.transposed)

    def _test_matrix_of_step(self) -> Tensor:
        if self._omega is None:
            self._omega = self.subspace.test_matrix().to(self.member.dtype)  # as the products take it
        return self._omega
