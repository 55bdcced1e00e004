"""Softmax and its cross-entropy, row by row, in one pass: logits become their gradient where they are.

With p = softmax(z), lse = log Σ exp z and the target t of a row:

    loss = -log p_t = lse - z_t,   dz = p (1 + 2 c lse) - e_t

c is the coefficient of the z-loss (see `kernels/model/softmax.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import notice
from galore.kernels.model.softmax import softmax_minus_onehot_ as by_torch
from galore.kernels.ops.dispatch import Backend, Case, choose, quantizer

SOFTMAX = "softmax"  # what is noticed on `meta`


def softmax_minus_onehot_(
    logits: Tensor, targets: Tensor, losses: Tensor, lse: Tensor, z_loss: float = 0.0, backend: Backend = "auto"
) -> None:
    """Overwrite contiguous logits z (c, V) by the gradient of their loss, in fp32 arithmetic with one rounding.

    Args:
        targets: (c,) int64, each in 0 … V - 1.
        losses, lse: (c,), written: -log p_t, and log Σ exp z.

    Raises:
        BackendError: `backend` cannot do it; the message says why.
    """
    if choose(case(logits), backend).backend != "triton":
        by_torch(logits, targets, losses, lse, z_loss)
    elif logits.is_meta:
        notice(SOFTMAX, 0, 2 * logits.nbytes)
    else:
        from galore.kernels.triton.fused import softmax_plan
        from galore.kernels.triton.launch import run

        run(softmax_plan(logits, targets.contiguous(), losses, lse, z_loss))


def case(logits: Tensor) -> Case:
    """The operation on these logits, for `choose`."""
    found = quantizer(logits)
    if logits.dtype == torch.float64:
        return found._replace(against="fp64 is torch's")
    return found if logits.is_contiguous() else found._replace(against="its rows do not lie one behind the other")
