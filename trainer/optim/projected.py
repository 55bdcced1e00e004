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
from galore.kernels.projection import lift_update_, orient, project
from galore.kernels.rounding import block_elements, mix
from galore.kernels.subspace import Basis, gaussian, randomized_basis, range_basis, svd_basis
from galore.trainer.optim.accumulate import GradientSum
from galore.trainer.optim.moments import moment
from galore.trainer.optim.refresh import RefreshSchedule
from galore.trainer.optim.slot import FullSlot, Update

RefreshMode = Literal["delayed", "two-pass", "summed", "first-micro-batch"]
ProjType = Literal["svd", "randomized"]


class ProjectedSlot(FullSlot):
    """A matrix whose optimizer lives in an r-dimensional subspace; its state adds `projector` (a, r)."""

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
        self.pending: Tensor | None = None
        self._omega: Tensor | None = None
        self.received, self.fallbacks, self.poisoned = 0, 0, False
        self.factored = False  # whether the layer's own backward hands over factors, see `factored`

    @property
    def due(self) -> bool:
        """Whether the step being accumulated refreshes this layer."""
        return "projector" not in self.state or self.schedule.due(self.clock())

    @property
    def wants_sketch_pass(self) -> bool:
        """Whether this step's basis comes from an extra pass over the micro-batches."""
        first = "projector" not in self.state
        return self.pending is None and ((self.mode == "two-pass" and self.due) or (self.mode == "delayed" and first))

    @property
    def has_gradient(self) -> bool:
        return self.sum.value is not None or self.whole.value is not None or self.poisoned

    @property
    def takes_factors(self) -> bool:
        """Whether the step being accumulated can do without the whole gradient, see `factored`."""
        return not self.due or (self.mode == "delayed" and "projector" in self.state)

    def receive_factors(self, factors: Factors) -> None:
        """As `receive`, from a gradient that is not multiplied out."""
        self.received += 1
        self.sum.add(factors.project(self.state["projector"]))
        if self.due:
            self.sketch.add(factors.sketch(self._test_matrix_of_step()).float())

    def receive(self, grad: Tensor) -> None:
        g = orient(grad)
        self.received += 1
        if not self.due:
            self.sum.add(project(self.state["projector"], g))
        elif self.mode == "summed":
            self.whole.add(grad)
            if self.received == self.accumulation:
                self.complete()
        elif self.mode == "delayed" and "projector" in self.state:
            self.sum.add(project(self.state["projector"], g))
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
            self.state["projector"] = self.pending
        gradient = self.sum.take().contiguous()
        self._begin(gradient.shape, gradient.device)
        direction = torch.empty(gradient.shape, dtype=self.parameter.dtype, device=gradient.device)
        size = block_elements(gradient)
        for first in range(0, gradient.numel(), size):
            last = min(first + size, gradient.numel())
            part = torch.zeros(last - first, device=gradient.device)
            self._adam_(part, gradient.view(-1)[first:last], first, last, update.grad_scale, lr=1.0, decay=1.0)
            direction.view(-1)[first:last] = part  # -m̂ / (√v̂ + ε)
        lift_update_(
            self.parameter.data,
            self.state["projector"],
            direction,
            alpha=self._lr,
            decay=self._decay,
            decay_after=self.group["convention"] == "reference",
            noise=update.noise,
            tensor=self.index,
        )
        if self.sketch.value is not None:
            self.state["projector"] = self._basis_of_sketch()
        self.discard()

    def discard(self) -> None:
        super().discard()
        self.whole.value = self.sketch.value = self.pending = self._omega = None
        self.received, self.poisoned = 0, False

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for category, tensor in super().tensors():
            yield "accumulators" if category == "gradients" else category, tensor
        held = {"gradients": self.whole.value, "accumulators": self.sketch.value, "projectors": self.pending}
        yield from ((category, tensor) for category, tensor in held.items() if tensor is not None)

    def planned_bytes(self) -> tuple[int, int]:
        moments = self._moment_bytes(torch.Size((self.rank, self.long)))
        return moments, self.short * self.rank * self.parameter.element_size()

    def _project_on_pending(self, grad: Tensor) -> None:
        if self.pending is None:
            if not bool(torch.isfinite(grad).all()):
                self.poisoned = True
                return
            self.pending = self._count(self._decompose(grad))
        self.sum.add(project(self.pending, orient(grad)))

    def _decompose(self, grad: Tensor) -> Basis:
        if self.proj_type == "svd":
            return svd_basis(grad, self.rank)
        return randomized_basis(orient(grad), self.rank, self._test_matrix())

    def _basis_of_sketch(self) -> Tensor:
        sketch = self.sketch.take()
        return self._count(range_basis(sketch / sketch.abs().max().clamp_min(1e-30), self.rank))

    def _count(self, basis: Basis) -> Tensor:
        """P as it is stored, in the weight's dtype; a decomposition that needed its fallback is counted."""
        self.fallbacks += basis.fell_back
        return basis.p.to(self.parameter.dtype)

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
