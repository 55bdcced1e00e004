"""Adam on fp32 tensors: one elementwise update for every storage and every shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from galore.kernels.family import Convention
from galore.kernels.storage.rounding import updated_


@dataclass(frozen=True)
class AdamRule:
    """Adam's constants. `paper` adds ε to √v̂; `reference` to √v before bias correction, decaying last."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    convention: Convention = "paper"

    def factors(self, step: int) -> tuple[float, float]:
        """(c, d) with which the direction after `step` steps is m·c / (√v·d + ε): bias correction before or after ε."""
        first, second = 1 - self.beta1**step, 1 - self.beta2**step
        return (1 / first, second**-0.5) if self.convention == "paper" else (second**0.5 / first, 1.0)

    def update_(
        self,
        target: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        *,
        step: int,
        lr: float,
        decay: float = 1.0,
    ) -> None:
        """target ← decay·target - lr·m̂ / (√v̂ + ε), both moments updated; all of one shape, in place.

        Args:
            target: fp32, or float64, which the fp32 update is added to; the moments are fp32.
            grad: fp32 gradient.
            step: steps taken including this one, from 1.
            lr: learning rate, at least 0.
            decay: factor of decoupled weight decay, 1 - ηλ; `reference` applies it to the updated target.
        """
        if target.dtype == torch.float64:
            update = torch.zeros_like(target, dtype=torch.float32)
            self.update_(update, grad, exp_avg, exp_avg_sq, step=step, lr=lr)
            updated_(target, update, 1.0, decay, self.convention == "reference")
        elif self.convention == "paper":
            self._fused_(target, grad, exp_avg, exp_avg_sq, step, lr, decay)
        else:
            self._reference_(target, grad, exp_avg, exp_avg_sq, step, lr)
            target.mul_(decay)

    def _fused_(self, target: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: int, lr: float, decay: float) -> None:
        """torch's fused AdamW reads and writes each tensor once; it knows decay as lr·λ."""
        # As torch.optim calls it for one tensor, without 0.02 ms of Python; a copy of the step would be waited for.
        torch._fused_adamw_(
            [target],
            [grad],
            [m],
            [v],
            [],
            [torch.full((), step, dtype=torch.float32, device=target.device)],
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=(1.0 - decay) / lr if lr else 0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _reference_(self, target: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: int, lr: float) -> None:
        m.lerp_(grad, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        step_size = lr * (1 - self.beta2**step) ** 0.5 / (1 - self.beta1**step)
        target.addcdiv_(m, v.sqrt().add_(self.eps), value=-step_size)
