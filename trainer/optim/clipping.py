"""Clipping: the norm of all that a step applies; and clipping by others, which finds no gradients here and is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import FrameType

import torch
from torch import Tensor

from galore.kernels.device import device_type
from galore.trainer.optim.slot import FullSlot

CLIPPERS = ("clip_grad_norm_", "clip_grad_value_")


def squared_norm(slots: Sequence[FullSlot]) -> Tensor:
    """‖what all of the slots apply‖² as a float64 scalar.

    In a few launches for all of them, unless some `applied` is None or float64. Norms are fp32, and float64 of such
    sums; their squares are float64.
    """
    applied = [slot.applied for slot in slots]
    here = [each for found in applied if found is not None for each in found]
    if None in applied or any(each.dtype == torch.float64 for each in here):
        squares = torch.stack([slot.squared_norm() for slot in slots])
    elif here:
        squares = torch.stack(torch._foreach_norm(here, dtype=torch.float32)).double().square()
    else:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    # on a CPU one after the other, in an order that is the same everywhere; on a GPU that is a scan, which is not
    return squares.cumsum(0)[-1] if device_type(squares) == "cpu" else squares.sum()


def warn_of_clipping(frame: FrameType | None) -> None:
    """Warn if a function that led to `frame`, which takes a step that nobody clipped, names one of torch's clippers.

    Gradients are taken over in the backward, so that those functions, and what calls them, see none and return 0. They
    leave no trace of having been called; that a caller's code names them is all there is to know.
    """
    while frame is not None:
        named = [name for name in CLIPPERS if name in frame.f_code.co_names]
        if named and not str(frame.f_globals.get("__name__", "")).startswith(("torch.", "galore.")):
            warnings.warn_explicit(
                f"{frame.f_code.co_name} names {named[0]}: torch's finds no gradients to clip, as GaLoreAdamW has taken "
                "them over in the backward. Give the optimizer max_grad_norm=, or call its own clip_grad_norm_ before step()",
                UserWarning,
                frame.f_code.co_filename,
                frame.f_lineno,
            )
            return
        frame = frame.f_back
