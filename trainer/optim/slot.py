"""One parameter's place in the optimizer: what it accumulates, and how its update is applied.

Nothing but accumulators changes before `apply`: a step that is given up leaves weights, moments and projectors
untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.ops.projection import lift_update_
from galore.kernels.storage.rounding import (
    WIDE,
    RoundingNoise,
    element_blocks,
    read_compensated,
    store_compensated_,
    store_rounded_,
)
from galore.trainer.optim.parts.inner import AdamInner, Inner
from galore.trainer.optim.parts.refresh import Gradient
from galore.trainer.optim.parts.residual import Terms
from galore.trainer.optim.parts.shards import Spread
from galore.trainer.optim.parts.storage import CODES, GradientSum
from galore.trainer.optim.parts.weight import Weight
from galore.trainer.optim.ranks import Part

ON_HOST = ("step", "refresh", "turn")  # counters in a parameter's state, read at every step


@dataclass(frozen=True)
class Update:
    """What all parameters of one optimizer step share."""

    grad_scale: float
    noise: RoundingNoise | None


@contextmanager
def all_or_nothing(state: dict[str, Tensor]) -> Iterator[None]:
    """A context in which a `state` is begun: it stays empty where that fails, as for want of memory."""
    fresh = not state
    try:
        yield
    except BaseException:
        if fresh:
            state.clear()
        raise


class FullSlot:
    """A parameter of any shape, its gradients as they are."""

    def __init__(self, weight: Weight, inner: Inner, total: GradientSum, compensated: bool) -> None:
        self.weight, self.inner, self.sum = weight, inner, total
        self._compensates = compensated

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def parameter(self) -> nn.Parameter:
        return self.weight.parameter

    @property
    def group(self) -> dict[str, Any]:
        """The parameter's live torch param group."""
        return self.weight.group

    @property
    def state(self) -> dict[str, Tensor]:
        """The named tensors that go on from step to step."""
        return self.weight.state

    @property
    def has_gradient(self) -> bool:
        return self.sum.exists

    @property
    def compensated(self) -> bool:
        """Whether the weight has 16 more bits: one that a model brings to bf16 later on, too."""
        return self._compensates and self.parameter.dtype == torch.bfloat16

    @property
    def fallbacks(self) -> int:
        """Decompositions so far that failed, for which something else was taken."""
        return self.inner.fallbacks

    def receive(self, grad: Gradient) -> None:
        """Take over one micro-batch's gradient (the parameter's shape)."""
        assert isinstance(grad, Tensor)
        self.sum.add(grad)

    def parts(self) -> Iterator[Part]:
        """The sums that ranks add up before `complete`. Those of a sharded parameter come added up."""
        if self.weight.shard is None:
            yield Part(self.sum, tuple(self.parameter.shape))

    def spread(self) -> Iterator[Spread]:
        """The sums of which each rank gets its own columns."""
        yield from ()

    def sends(self, turn: bool) -> dict[str, int]:
        """Bytes, by kind, that go from this rank to the others in a step; on its `turn` one that finds a basis."""
        return {"full-rank sums": self.parameter.numel() * self.sum.dtype.itemsize}

    def complete(self) -> None:
        """Called once all micro-batches are in, before the norm is taken."""

    @property
    def applied(self) -> list[Tensor] | None:
        """What `squared_norm` is of once all is complete; None where that is not on the device, or no number."""
        return None if self.sum.here is None else [self.sum.here]

    def squared_norm(self) -> Tensor:
        """‖what is applied‖² as a float64 scalar."""
        return self.sum.squared_norm()

    def apply(self, update: Update) -> None:
        """The inner rule and the weight update; consumes the accumulator."""
        grad = self.sum.take().contiguous()
        if isinstance(self.inner, AdamInner):
            self._apply_in_blocks(self.inner, grad.view(-1), update)
            return
        self._lift(update, Terms(None, None, self.inner.rows(grad, update.grad_scale)))

    def _lift(self, update: Update, terms: Terms, transposed: bool | None = None) -> None:
        """W ← (1 - ηλ) W + ηα (P N + D)."""
        lift_update_(
            self.weight.matrix,
            *terms[:2],
            alpha=self._lr,
            decay=self._decay,
            decay_after=self.weight.in_reference_order,
            noise=update.noise,
            tensor=self.weight.noise,
            compensation=self._compensation(),
            dense=terms.dense,
            transposed=transposed,
            scales=self.weight.scales,
        )

    def _apply_in_blocks(self, adam: AdamInner, grad: Tensor, update: Update) -> None:
        """Adam and the weight update in one pass, block by block."""
        weight, compensation = self.weight.local.view(-1), self._compensation()
        adam.begin(self.weight.local.shape, weight.device)
        for block, first, last in element_blocks(weight):
            part = weight[first:last]
            rest = None if compensation is None else compensation[first:last]
            # the weight itself where it is fp32 or float64
            value = part if part.dtype in WIDE else part.float() if rest is None else read_compensated(part, rest)
            adam.update_(value, grad[first:last], first, last, update.grad_scale, self._lr, self._decay)
            if rest is not None:
                store_compensated_(part, rest, value)
            elif value is not part:
                noise = update.noise.window(self.weight.noise, block, last - first) if update.noise else None
                store_rounded_(part, value, noise)

    def discard(self) -> None:
        """Forget what was accumulated."""
        self.sum.value = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(category of memory, tensor) for everything held now."""
        yield from self._state_tensors()
        if self.sum.here is not None:
            yield "gradients", self.sum.here

    def planned_bytes(self) -> tuple[int, int]:
        """Bytes of the state (with the compensation of a weight) and of the projector once the first step is taken."""
        sizes = {name: tensor.nbytes for name, tensor in self.planned_state().items() if name not in ON_HOST}
        projector = sum(nbytes for name, nbytes in sizes.items() if name.startswith(CODES))
        return sum(sizes.values()) - projector, projector

    def planned_state(self) -> dict[str, Tensor]:
        """What `state` holds once the first step is taken, on `meta`; `refresh` may come later."""
        matrix = self.parameter.ndim >= 2 and not isinstance(self.inner, AdamInner)
        shape = self.weight.matrix.shape if matrix else self.weight.local.shape
        return self.inner.planned(shape) | self._planned_compensation()

    def _state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.state.items():
            yield "projectors" if name.startswith(CODES) else "optimizer_states", tensor

    def _planned_compensation(self) -> dict[str, Tensor]:
        if not self.compensated:
            return {}
        return {"compensation": torch.empty(self.weight.local.numel(), dtype=torch.int16, device="meta")}

    def _compensation(self) -> Tensor | None:
        """The flat rest of a compensated weight; zeros at first."""
        if not self.compensated:
            return None
        if "compensation" not in self.state:
            device = self.parameter.device
            self.state["compensation"] = torch.zeros(self.weight.local.numel(), dtype=torch.int16, device=device)
        return self.state["compensation"]

    @property
    def _lr(self) -> float:
        return float(self.group["lr"] * self.group["scale"])

    @property
    def _decay(self) -> float:
        return 1.0 - float(self.group["lr"] * self.group["weight_decay"])
