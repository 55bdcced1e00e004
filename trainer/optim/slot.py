"""One parameter's place in the optimizer: what it accumulates, and how its update is applied.

Nothing but accumulators changes before `apply`: a step that is given up leaves weights, moments and projectors untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.adam import AdamRule
from galore.kernels.rounding import (
    RoundingNoise,
    element_blocks,
    read_compensated,
    store_compensated_,
    store_rounded_,
)
from galore.trainer.optim.accumulate import GradientSum
from galore.trainer.optim.moments import StateDtype, moment, new_state

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Update:
    """What all parameters of one optimizer step share."""

    grad_scale: float
    noise: RoundingNoise | None


class FullSlot:
    """A parameter updated by plain AdamW, any shape. `group` is its live torch param group, `state` its named tensors."""

    def __init__(
        self,
        name: str,
        index: int,
        parameter: nn.Parameter,
        group: dict[str, Any],
        state: dict[str, Tensor],
        state_dtype: StateDtype,
        accumulator_dtype: torch.dtype,
        compensated: bool,
    ) -> None:
        self.name, self.index, self.parameter, self.group, self.state = name, index, parameter, group, state
        self.state_dtype, self.sum = state_dtype, GradientSum(accumulator_dtype)
        self.compensated = compensated and parameter.dtype == torch.bfloat16

    @property
    def has_gradient(self) -> bool:
        return self.sum.value is not None

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
        """Adam and the weight update, block by block; consumes the accumulator."""
        grad, weight = self.sum.take().contiguous().view(-1), self.parameter.data.view(-1)
        self._begin(self.parameter.shape, weight.device)
        compensation = self._compensation()
        for block, first, last in element_blocks(weight):
            part = weight[first:last]
            rest = None if compensation is None else compensation[first:last]
            value = part.float() if rest is None else read_compensated(part, rest)  # the weight itself where it is fp32
            self._adam_(value, grad[first:last], first, last, update.grad_scale, self._lr, self._decay)
            if rest is not None:
                store_compensated_(part, rest, value)
            elif value is not part:
                noise = update.noise.window(self.index, block, last - first) if update.noise else None
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
        """Bytes of moments (and what a compensated weight keeps) and of projector once the first step is taken; nothing is allocated."""
        return self._moment_bytes(self.parameter.shape), 0

    def _moment_bytes(self, shape: torch.Size) -> int:
        meta = torch.device("meta")
        rest = 2 * self.parameter.numel() * self.compensated
        return rest + sum(t.nbytes for name in MOMENTS for t in new_state(name, shape, self.state_dtype, meta).values())

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

    def _begin(self, shape: torch.Size, device: torch.device) -> None:
        """Create the moments on first use and advance this parameter's step count."""
        if "step" not in self.state:
            self.state["step"] = torch.zeros((), dtype=torch.int64)
            for name in MOMENTS:
                self.state.update(new_state(name, shape, self.state_dtype, device))
        self.state["step"] += 1

    def _adam_(
        self, target: Tensor, grad: Tensor, first: int, last: int, grad_scale: float, lr: float, decay: float
    ) -> None:
        """`AdamRule.update_` on elements [first, last) of the moments, whatever their storage."""
        storage = [moment(self.state, name) for name in MOMENTS]
        values = [part.read(first, last) for part in storage]
        grad = grad.float()
        grad = grad if grad_scale == 1.0 else grad * grad_scale
        self._rule.update_(target, grad, values[0], values[1], step=int(self.state["step"]), lr=lr, decay=decay)
        for part, value in zip(storage, values, strict=True):
            part.write(first, last, value)

    @property
    def _rule(self) -> AdamRule:
        beta1, beta2 = self.group["betas"]
        return AdamRule(beta1, beta2, self.group["eps"], self.group["convention"])
