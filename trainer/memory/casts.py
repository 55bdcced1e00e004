"""What the CPU's elementwise operations take beside their results: operands of mixed types are cast as a whole first.

A GPU casts element by element in registers, so this is the CPU's alone (PyTorch: aten/src/ATen/TensorIterator.cpp,
`TensorIteratorBase::compute_types`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

ELEMENTWISE = {"add", "sub", "mul", "div", "addcmul", "addcdiv", "lerp", "where", "maximum", "minimum", "rsub"}


def cpu_workspaces(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[tuple[int, int]]:
    """(lower, upper) bytes of each whole-tensor cast of an elementwise operation on operands of mixed types."""
    if func._overloadpacket.__name__.rstrip("_") not in ELEMENTWISE:
        return []
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if len({tensor.dtype for tensor in tensors}) < 2:
        return []
    common = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors if tensor.ndim), torch.bool)
    cast = [tensor.numel() * common.itemsize for tensor in tensors if tensor.ndim and tensor.dtype != common]
    return [(size, size) for size in cast if size]
