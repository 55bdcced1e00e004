"""The update of int8 weights as one compiled pass: torch.compile on a CPU, where eager's dozen passes cost several times it."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor, Tensor, Tensor | float, Tensor, Tensor, bool], tuple[Tensor, Tensor]]
LARGEST = 127.0
FRESH = 1.125 * (1 + 2**-7) / 127  # of a new scale over the largest number of its group, see kernels/int8.py


def no_compiler() -> str:
    """Why nothing can be compiled here, "" if it can."""
    wanted = os.environ.get("CXX")
    found = any(shutil.which(name) for name in ([wanted] if wanted else ["g++", "clang++", "c++"]))
    return "" if found else "torch.compile needs a C++ compiler, and there is none"


def add_update_groups_(
    codes: Tensor, scales: Tensor, update: Tensor, noise: Tensor | None, alpha: float, decay: float, decay_after: bool
) -> None:
    """`int8.add_update_int8_` on groups: codes, update, noise (groups, size), scales (groups,). Compiles at its first call."""
    u: Tensor | float = 0.5 if noise is None else noise
    for x in (codes, scales, update, u):
        if isinstance(x, Tensor):
            torch._dynamo.maybe_mark_dynamic(x, 0)
    new = _compiled()(codes, scales, update, u, torch.tensor(alpha), torch.tensor(decay), decay_after)
    codes.copy_(new[0])
    scales.copy_(new[1])


def _updated(
    codes: Tensor, scales: Tensor, update: Tensor, u: Tensor | float, alpha: Tensor, decay: Tensor, after: bool
) -> tuple[Tensor, Tensor]:
    """(codes, scales) after the update; alpha and decay are tensors, since numbers would be compiled in."""
    old = scales.float()
    value, added = codes * old[:, None], update.float() * alpha
    value = (value + added) * decay if after else value * decay + added
    largest = value.abs().amax(1)
    kept = (largest <= LARGEST * old) & (largest >= LARGEST / 2 * old)
    scale = torch.where(kept, old, _as_bf16((largest * FRESH).clamp_min(1e-30)))
    way = (u.float() + 0.5) * 2.0**-16 if isinstance(u, Tensor) else u
    found = (value / scale[:, None] + way).floor().clamp(-LARGEST, LARGEST)
    return found.to(torch.int8), scale.bfloat16()


def _as_bf16(x: Tensor) -> Tensor:
    """x rounded to bf16, in fp32. The compiler would leave out a cast that is taken back, and with it the rounding."""
    bits = x.view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -(1 << 16)).view(torch.float32)


@functools.cache
def _compiled() -> Update:
    compiled: Update = torch.compile(_updated)
    return compiled
