"""SOAP of one side: Adam along the axes of an average of R Rᵀ, which it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from galore.kernels.decompose import first_finite

GRAM_DECAY = 0.95  # of the average of R Rᵀ, and
FREQUENCY = 10  # steps from one basis of it to the next: those of SOAP's paper


@dataclass(frozen=True)
class SoapRule:
    """SOAP (Vyas et al. 2024, arXiv 2409.11321, algorithms 3 and 4), of the shorter side of R alone.

    All but `state_shapes` has R as (r, b), r ≤ b, and any columns of it can be moved apart from the others. The axes
    are found before the step that takes them, at first exactly. `fell_back` is called where that failed and another way
    was taken, or the axes stayed as they were.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    fell_back: Callable[[], None] = lambda: None

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the fp32 state of a matrix of either layout, zeros at first."""
        square = (min(shape), min(shape))
        return {"exp_avg": shape, "exp_avg_sq": shape, "gram": square, "axes": square}

    def direction_(self, grad: Tensor, state: Mapping[str, Tensor], *, step: int, out: Tensor | None = None) -> Tensor:
        """-N for the fp32 matrix `grad` (r, b), the state updated in place.

            L ← 0.95 L + 0.05 R Rᵀ;  M ← β₁M + (1-β₁)R,  V ← β₂V + (1-β₂)(QᵀR)∘²;  N = Q (QᵀM̂ / (√V̂ + ε))

        Args:
            step: steps taken including this one, from 1.
            out: fp32, where the direction goes; may be `grad` itself.
        """
        self.follow_(state, grad @ grad.mT, step=step)
        return self.along_(grad, state["exp_avg"], state["exp_avg_sq"], state["axes"], step=step, out=out)

    def follow_(self, state: Mapping[str, Tensor], square: Tensor, *, step: int) -> None:
        """L, and every so many steps its axes Q, in place, after a step's `square` R Rᵀ (r, r)."""
        state["gram"].lerp_(square, 1 - GRAM_DECAY)
        if step == 1 or step % FREQUENCY == 0:
            self._find_axes(state["gram"], state["axes"], step)

    def along_(self, r: Tensor, m: Tensor, v: Tensor, q: Tensor, *, step: int, out: Tensor | None = None) -> Tensor:
        """-N of columns of R, in fp32 as their M and V, which are updated in place."""
        m.lerp_(r, 1 - self.beta1)
        along = q.mT @ r
        v.mul_(self.beta2).addcmul_(along, along, value=1 - self.beta2)
        torch.mm(q.mT, m, out=along)
        along.div_(v.sqrt().mul_((1 - self.beta2**step) ** -0.5).add_(self.eps))
        return torch.mm(q, along, out=out).mul_(-1 / (1 - self.beta1**step))

    def _find_axes(self, gram: Tensor, axes: Tensor, step: int) -> None:
        """Q in place; where nothing is found it stays, and is the axes of R at first."""
        find = _eigenvectors if step == 1 else _power_step
        try:
            found, other_way = first_finite(
                lambda: find(gram, axes), lambda: find(gram.double(), axes.double()).float()
            )
        except LinAlgError:
            found, other_way = (
                (torch.eye(len(axes), dtype=torch.float32, device=axes.device) if step == 1 else axes),
                True,
            )
        axes.copy_(found)
        if other_way:
            self.fell_back()


def _eigenvectors(gram: Tensor, axes: Tensor) -> Tensor:
    """Eigenvectors of L, the largest first."""
    vectors: Tensor = torch.linalg.eigh(gram)[1]
    return vectors.flip(1)


def _power_step(gram: Tensor, axes: Tensor) -> Tensor:
    """Axes a step nearer to the eigenvectors, each still the one that it was, as V has it."""
    found: Tensor = torch.linalg.qr(gram @ axes)[0]
    return found
