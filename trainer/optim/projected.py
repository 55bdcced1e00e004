"""A projected parameter: gradients enter the hook as m×n and stay as r×max(m, n)  (GaLore, arXiv 2403.03507).

Written once for the oriented weight (a, b), a ≤ b. Which gradient a refresh of the subspace sees:

    first-micro-batch  the first gradient of the step, while it is alive in the hook
    summed             the sum of the step's gradients, kept whole for the layers being refreshed
    two-pass           a linear sketch Σ Gᵢ Ω from an extra pass over the micro-batches
    delayed            the sketch is gathered beside the projection; the new basis serves from the next step on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from galore.kernels.linear import Factors
from galore.kernels.projection import Dense, lift_update_, orient, project
from galore.kernels.rounding import element_blocks, mix
from galore.kernels.subspace import Basis, gaussian, randomized_basis, range_basis, seeded_basis, svd_basis
from galore.kernels.transport import Transport, change_of_basis, transport
from galore.trainer.optim.accumulate import GradientSum
from galore.trainer.optim.kept import Kept, ProjectorDtype, keep, kept_bytes, matrix
from galore.trainer.optim.moments import moment
from galore.trainer.optim.refresh import RefreshSchedule
from galore.trainer.optim.slot import MOMENTS, FullSlot, Update

RefreshMode = Literal["delayed", "two-pass", "summed", "first-micro-batch"]
ProjType = Literal["svd", "randomized", "random"]


class ProjectedSlot(FullSlot):
    """A matrix whose optimizer lives in an r-dimensional subspace; its state adds `projector` (a, r).

    A `random` subspace is drawn anew from the seed whenever it is wanted, and nothing of it is kept.
    """

    def __init__(
        self,
        *args: Any,
        rank: int,
        proj_type: ProjType,
        mode: RefreshMode,
        schedule: RefreshSchedule,
        seed: int,
        clock: Callable[[], int],
        accumulation: int | None,
    ) -> None:
        super().__init__(*args)
        self.short, self.long = sorted(self.parameter.shape)
        self.rank, self.proj_type, self.mode = min(rank, self.short), proj_type, mode
        self.schedule, self.seed, self.clock, self.accumulation = schedule, seed, clock, accumulation
        self.whole, self.sketch = GradientSum(self.sum.dtype), GradientSum(torch.float32)
        self.pending: Kept | None = None  # the basis that this step's gradients are projected on, if it is a new one
        self._omega: Tensor | None = None
        self.received, self.fallbacks, self.poisoned = 0, 0, False
        self.factored = False  # whether the layer's own backward hands over factors, see `factored`

    @property
    def projector(self) -> Tensor:
        """P (a, r) in the dtype of the weight."""
        if self.proj_type == "random":
            seed = mix(self.seed, self.schedule.last_due(self.clock()), self.index)
            return seeded_basis(self.short, self.rank, seed, self.parameter)
        return self._matrix(self.state)

    @property
    def has_projector(self) -> bool:
        """Whether there is a basis to project on."""
        return self.proj_type == "random" or "projector" in self.state

    @property
    def due(self) -> bool:
        """Whether the step being accumulated finds this layer a new subspace."""
        return self.proj_type != "random" and (not self.has_projector or self.schedule.due(self.clock()))

    @property
    def wants_sketch_pass(self) -> bool:
        """Whether this step's basis comes from an extra pass over the micro-batches."""
        by_pass = self.mode == "two-pass" or (self.mode == "delayed" and not self.has_projector)
        return self.due and self.pending is None and by_pass

    @property
    def has_gradient(self) -> bool:
        return self.sum.value is not None or self.whole.value is not None or self.poisoned

    @property
    def takes_factors(self) -> bool:
        """Whether the step being accumulated can do without the whole gradient, see `factored`."""
        return not self.due or (self.mode == "delayed" and self.has_projector)

    def receive_factors(self, factors: Factors) -> None:
        """As `receive`, from a gradient that is not multiplied out."""
        self.received += 1
        self.sum.add(factors.project(self.projector))
        if self.due:
            self.sketch.add(factors.sketch(self._test_matrix_of_step()).float())

    def receive(self, grad: Tensor) -> None:
        g = orient(grad)
        self.received += 1
        if not self.due:
            self.sum.add(project(self.projector, g))
        elif self.mode == "summed":
            self.whole.add(grad)
            if self.received == self.accumulation:
                self.complete()
        elif self.mode == "delayed" and self.has_projector:
            self.sum.add(project(self.projector, g))
            self.add_to_sketch(grad)
        else:
            self._project_on_pending(grad)

    def add_to_sketch(self, grad: Tensor) -> None:
        """Y += G Ω, (a, r), with Ω fixed over the micro-batches of a step."""
        g = orient(grad)
        self.sketch.add((g @ self._test_matrix_of_step().to(g.dtype)).float())

    def finish_sketch(self) -> None:
        """Turn a sketch pass into the basis that this step will project on."""
        if self.sketch.value is not None:
            self.pending, self._omega = self._basis_of_sketch(), None

    def complete(self) -> None:
        if self.whole.value is not None:
            self._project_on_pending(self.whole.take())

    def squared_norm(self) -> Tensor:
        if self.poisoned:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.parameter.device)
        return super().squared_norm()

    def apply(self, update: Update) -> None:
        if self.pending is not None:
            self._turn_to(self.pending)
        direction = self._direction(self.sum.take().contiguous(), update.grad_scale, self.parameter.dtype)
        self._lift(update, self.projector, direction)
        if self.sketch.value is not None:
            self._turn_to(self._basis_of_sketch())
        self.discard()

    def _direction(self, gradient: Tensor, grad_scale: float, dtype: torch.dtype) -> Tensor:
        """N (r, b) = -m̂ / (√v̂ + ε) of the projected gradient (r, b), contiguous."""
        self._begin(gradient.shape, gradient.device)
        direction = torch.empty(gradient.shape, dtype=dtype, device=gradient.device)
        for _, first, last in element_blocks(gradient.view(-1)):
            part = torch.zeros(last - first, device=gradient.device)
            self._adam_(part, gradient.view(-1)[first:last], first, last, grad_scale, lr=1.0, decay=1.0)
            direction.view(-1)[first:last] = part
        return direction

    def _lift(self, update: Update, p: Tensor | None, direction: Tensor | None, dense: Dense | None = None) -> None:
        """W ← (1 - ηλ) W + ηα (P N + D)."""
        lift_update_(
            self.parameter.data,
            p,
            direction,
            alpha=self._lr,
            decay=self._decay,
            decay_after=self.group["convention"] == "reference",
            noise=update.noise,
            tensor=self.index,
            compensation=self._compensation(),
            dense=dense,
        )

    def _turn_to(self, basis: Kept) -> None:
        """Make `basis` the one to project on; the moments follow as the group's transport says."""
        kind = self.group["transport"]
        if kind != "keep" and "projector" in self.state and "exp_avg" in self.state:
            self._carry_moments(kind, change_of_basis(self._matrix(basis), self.projector))
        self.state.update(basis)

    def _matrix(self, kept: Kept) -> Tensor:
        return matrix(kept, (self.short, self.rank), self.parameter.dtype)

    @property
    def _projector_dtype(self) -> ProjectorDtype:
        chosen: ProjectorDtype | None = self.group["projector_dtype"]
        return chosen or ("bfloat16" if self.parameter.dtype == torch.bfloat16 else "float32")

    def _carry_moments(self, kind: Transport, c: Tensor) -> None:
        storage = {name: moment(self.state, name) for name in MOMENTS}
        numel, (beta1, beta2) = self.rank * self.long, self.group["betas"]
        old = [storage[name].read(0, numel).view(self.rank, self.long) for name in MOMENTS]
        carried = transport(kind, old[0], old[1], c, step=int(self.state["step"]), beta1=beta1, beta2=beta2)
        for name in carried.changed:
            storage[name].write(0, numel, getattr(carried, name).reshape(-1))
        if carried.restart:
            self.state["step"].zero_()

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

    def planned_bytes(self) -> tuple[int, int]:
        moments = self._moment_bytes(torch.Size((self.rank, self.long)))
        stored = self.proj_type != "random"
        return moments, kept_bytes((self.short, self.rank), self._projector_dtype) * stored

    def _project_on_pending(self, grad: Tensor) -> None:
        if self.pending is None:
            if not bool(torch.isfinite(grad).all()):
                self.poisoned = True
                return
            self.pending = self._count(self._decompose(grad))
        self.sum.add(project(self._matrix(self.pending), orient(grad)))

    def _decompose(self, grad: Tensor) -> Basis:
        if self.proj_type == "svd":
            return svd_basis(grad, self.rank)
        return randomized_basis(orient(grad), self.rank, self._test_matrix())

    def _basis_of_sketch(self) -> Kept:
        sketch = self.sketch.take()
        return self._count(range_basis(sketch / sketch.abs().max().clamp_min(1e-30), self.rank))

    def _count(self, basis: Basis) -> Kept:
        """P as it is kept; a decomposition that needed its fallback is counted."""
        self.fallbacks += basis.fell_back
        return keep(basis.p, self._projector_dtype)

    def _test_matrix_of_step(self) -> Tensor:
        if self._omega is None:
            self._omega = self._test_matrix().to(self.parameter.dtype)  # as the products take it
        return self._omega

    def _test_matrix(self) -> Tensor:
        """Ω (b, r): random at first, afterwards the row space of the first moment, which makes one warm power step."""
        if "exp_avg" not in self.state:
            return gaussian(self.long, self.rank, mix(self.seed, self.clock()), self.parameter)
        first_moment = moment(self.state, "exp_avg").read(0, self.rank * self.long).view(self.rank, self.long)
        return range_basis(first_moment.mT, self.rank).p
