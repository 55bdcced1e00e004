"""Adam on fp32 moments: one pure elementwise function for every storage and every shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Convention = Literal["paper", "reference"]


@dataclass(frozen=True)
class AdamRule:
    """Adam's constants. `paper` adds ε to √v̂, `reference` to √v before bias correction."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    convention: Convention = "paper"

    def direction_(
        self, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, grad_scale: float = 1.0
    ) -> Tensor:
        """Update both fp32 moments in place and return the fp32 direction m̂ / (√v̂ + ε), all of one shape.

        Args:
            grad: gradient, any floating dtype; multiplied by `grad_scale` (clipping) in fp32.
            step: steps taken including this one, from 1.
        """
        grad = grad.float()
        if grad_scale != 1.0:
            grad = grad * grad_scale
        exp_avg.lerp_(grad, 1 - self.beta1)
        exp_avg_sq.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        correction1, correction2 = 1 - self.beta1**step, 1 - self.beta2**step
        denominator = exp_avg_sq.sqrt()
        if self.convention == "reference":
            denominator.add_(self.eps).mul_(correction1 / correction2**0.5)
        else:
            denominator.mul_(correction1 / correction2**0.5).add_(self.eps * correction1)
        return denominator.reciprocal_().mul_(exp_avg)
