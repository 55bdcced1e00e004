"""The device and the threads of this process, as a recipe asks for them."""

from __future__ import annotations

import os

import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted

THREADS_PER_CORE = 16


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; an impossible choice is refused."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError(
            "no CUDA device is visible", where="train.device", fix="set it to auto or cpu; see `galore doctor`"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_threads(number: int | None) -> None:
    """`train.num_threads` for this process; None leaves torch's choice. Raises UserError for far more than cores."""
    if number is not None:
        most = THREADS_PER_CORE * (os.cpu_count() or 1)
        if number > most:
            raise UserError(
                f"is {number}, on {counted(os.cpu_count() or 1, 'core')}",
                where="train.num_threads",
                fix=f"lower it to {most}, or leave it out",
            )
        torch.set_num_threads(number)
