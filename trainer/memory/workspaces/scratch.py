"""Scratch memory of one operation: storages that a CUDA kernel's caller takes below the dispatcher and gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Workspace(NamedTuple):
    """One storage, in bytes: lower and upper bound, equal where PyTorch's source fixes the size."""

    nbytes: int
    high: int


class Gpu(NamedTuple):
    """What sizes depend on: compute capability and the number of streaming multiprocessors."""

    capability: tuple[int, int]
    sms: int


Formula = Callable[[Gpu, tuple[Any, ...], Any], list[Workspace]]  # (GPU, positional arguments, result)

FLOAT = 4  # bytes
HALF = (torch.bfloat16, torch.float16)


def exact(*sizes: int) -> list[Workspace]:
    """Storages whose sizes the source fixes; those of no bytes are not taken at all."""
    return [Workspace(size, size) for size in sizes if size > 0]


def between(low: int, high: int) -> list[Workspace]:
    """One storage that a closed library, or a choice made on the card, sizes."""
    return [Workspace(max(low, 1), high)] if high > 0 else []


def at(args: tuple[Any, ...], index: int, default: Any) -> Any:
    """A positional argument; trailing ones that have their default do not reach the dispatcher."""
    return args[index] if index < len(args) else default


def copied(tensor: Tensor) -> int:
    """Bytes of `tensor.contiguous()`: none where it is."""
    return 0 if tensor.is_contiguous() else tensor.numel() * tensor.element_size()


def up(number: int, multiple: int) -> int:
    """`number` rounded up to a multiple."""
    return blocks(number, multiple) * multiple


def blocks(number: int, size: int) -> int:
    """How many blocks of `size` cover `number`."""
    return -(-number // size)
