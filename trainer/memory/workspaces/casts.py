"""What the CPU's operations take beside their results where types are mixed: whole tensors are cast first.

A GPU casts element by element in registers, so this is the CPU's alone (PyTorch: `TensorIteratorBase::compute_types` in
aten/src/ATen/TensorIterator.cpp, `make_reduction` in aten/src/ATen/native/ReduceOpsUtils.h).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

ELEMENTWISE = {"add", "sub", "mul", "div", "addcmul", "addcdiv", "lerp", "where", "maximum", "minimum", "rsub"}
REDUCTIONS = {"linalg_vector_norm", "sum", "mean", "prod"}


def cpu_workspaces(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[tuple[int, int]]:
    """(lower, upper) bytes of each whole-tensor cast of an operation on the CPU."""
    name = func._overloadpacket.__name__.rstrip("_")
    if name in REDUCTIONS:
        cast = _reduced(args[0], kwargs.get("dtype"))
    else:
        operands = args[1:] if name == "where" else args  # its condition stays as it is
        cast = _promoted([arg for arg in operands if isinstance(arg, Tensor)]) if name in ELEMENTWISE else []
    return [(size, size) for size in cast if size]


def _reduced(tensor: Tensor, dtype: torch.dtype | None) -> list[int]:
    return [] if dtype is None or dtype == tensor.dtype else [tensor.numel() * dtype.itemsize]


def _promoted(tensors: list[Tensor]) -> list[int]:
    if len({tensor.dtype for tensor in tensors}) < 2:
        return []
    common = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors if tensor.ndim), torch.bool)
    return [tensor.numel() * common.itemsize for tensor in tensors if tensor.ndim and tensor.dtype != common]
