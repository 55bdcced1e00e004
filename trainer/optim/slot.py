"""One parameter's place in the optimizer: what it accumulates, and how its update is applied.

Nothing but accumulators changes before `apply`: a step that is given up leaves weights, moments and projectors untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.family import StateDtype
from galore.kernels.ops.projection import lift_update_
from galore.kernels.storage.rounding import (
    RoundingNoise,
    element_blocks,
    read_compensated,
    store_compensated_,
    store_rounded_,
)
from galore.trainer.optim.member import Member, as_matrix
from galore.trainer.optim.parts.inner import AdamInner, make_inner
from galore.trainer.optim.parts.storage import CODES, GradientSum

ON_HOST = ("step", "refresh")  # counters in a parameter's state, read at every step


@dataclass(frozen=True)
class Update:
    """What all parameters of one optimizer step share."""

    grad_scale: float
    noise: RoundingNoise | None


class FullSlot:
    """A parameter of any shape, its gradients as they are."""

    def __init__(
        self, member: Member, state_dtype: StateDtype, accumulator_dtype: torch.dtype, compensated: bool
    ) -> None:
        self.member = member
        self.inner = make_inner(member, state_dtype)
        self.sum = GradientSum(accumulator_dtype)
        self.compensated = compensated and member.parameter.dtype == torch.bfloat16

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def parameter(self) -> nn.Parameter:
        return self.member.parameter

    @property
    def group(self) -> dict[str, Any]:
        """The parameter's live torch param group."""
        return self.member.group

    @property
    def state(self) -> dict[str, Tensor]:
        """The named tensors that are kept from step to step."""
        return self.member.state

    @property
    def has_gradient(self) -> bool:
        return self.sum.value is not None

    @property
    def fallbacks(self) -> int:
        """Decompositions so far that failed, for which something else was taken."""
        return self.inner.fallbacks

    def receive(self, grad: Tensor) -> None:
        """Take over one micro-batch's gradient (the parameter's shape)."""
        self.sum.add(grad)

    def complete(self) -> None:
        """Called once all micro-batches are in, before the norm is taken."""

    def squared_norm(self) -> Tensor:
        """‖what is applied‖² as a float64 scalar."""
        assert self.sum.value is not None
        norm: Tensor = torch.linalg.vector_norm(self.sum.value, dtype=torch.float32)
        return norm.double().square()

    def apply(self, update: Update) -> None:
        """The inner rule and the weight update; consumes the accumulator."""
        grad = self.sum.take().contiguous()
        if isinstance(self.inner, AdamInner):
            self._apply_in_blocks(self.inner, grad.view(-1), update)
            return
        grad = grad if self.parameter.ndim < 2 else as_matrix(grad)
        direction = as_matrix(self.inner.direction(grad, update.grad_scale, torch.float32))
        lift_update_(
            self.member.matrix,
            None,
            None,
            alpha=self._lr,
            decay=self._decay,
            noise=update.noise,
            tensor=self.member.index,
            compensation=self._compensation(),
            dense=lambda first, last: direction[first:last],
        )

    def _apply_in_blocks(self, adam: AdamInner, grad: Tensor, update: Update) -> None:
        """Adam and the weight update in one pass, block by block."""
        weight, compensation = self.parameter.data.view(-1), self._compensation()
        adam.begin(self.parameter.shape, weight.device)
        for block, first, last in element_blocks(weight):
            part = weight[first:last]
            rest = None if compensation is None else compensation[first:last]
            value = part.float() if rest is None else read_compensated(part, rest)  # the weight itself where it is fp32
            adam.update_(value, grad[first:last], first, last, update.grad_scale, self._lr, self._decay)
            if rest is not None:
                store_compensated_(part, rest, value)
            elif value is not part:
                noise = update.noise.window(self.member.index, block, last - first) if update.noise else None
                store_rounded_(part, value, noise)

    def discard(self) -> None:
        """Forget what was accumulated."""
        self.sum.value = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(category of memory, tensor) for everything held now."""
        for name, tensor in self.state.items():
            yield "projectors" if name.startswith("projector") else "optimizer_states", tensor
        if self.sum.value is not None:
            yield "gradients", self.sum.value

    def planned_bytes(self) -> tuple[int, int]:
        """Bytes of the state (and what a compensated weight keeps) and of the projector once the first step is taken."""
        sizes = {name: tensor.nbytes for name, tensor in self.planned_state().items() if name not in ON_HOST}
        projector = sum(nbytes for name, nbytes in sizes.items() if name.startswith(CODES))
        return sum(sizes.values()) - projector, projector

    def planned_state(self) -> dict[str, Tensor]:
        """What `state` holds once the first step is taken, on `meta`; `refresh` may come later."""
        matrix = self.parameter.ndim >= 2 and not isinstance(self.inner, AdamInner)
        shape = self.member.matrix.shape if matrix else self.parameter.shape
        return self.inner.planned(shape) | self._planned_compensation()

    def _planned_compensation(self) -> dict[str, Tensor]:
        if not self.compensated:
            return {}
        return {"compensation": torch.empty(self.parameter.numel(), dtype=torch.int16, device="meta")}

    def _compensation(self) -> Tensor | None:
        """The flat rest of a compensated weight; zeros at first."""
        if not self.compensated:
            return None
        if "compensation" not in self.state:
            device = self.parameter.device
            self.state["compensation"] = torch.zeros(self.parameter.numel(), dtype=torch.int16, device=device)
        return self.state["compensation"]

    @property
    def _lr(self) -> float:
        return float(self.group["lr"] * self.group["scale"])

    @property
    def _decay(self) -> float:
        return 1.0 - float(self.group["lr"] * self.group["weight_decay"])
