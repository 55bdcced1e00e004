"""Operations on `meta` tensors and the scratch memory they take, on an RTX 4090 unless another GPU is named."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from galore.trainer.memory.workspaces.workspaces import cuda_workspaces

aten = torch.ops.aten
bf16, f32, f64, i64 = torch.bfloat16, torch.float32, torch.float64, torch.int64


def meta(*shape: int, dtype: torch.dtype = bf16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def heads(b: int, h: int, tokens: int, size: int, dtype: torch.dtype = bf16) -> Tensor:
    """(b, h, tokens, size) as attention gets it from a projection."""
    return meta(b, tokens, h, size, dtype=dtype).transpose(1, 2)


def scratch(
    func: Any, *args: Any, out: Any = None, capability: tuple[int, int] = (8, 9), sms: int = 128
) -> list[tuple[int, int]]:
    return [tuple(each) for each in cuda_workspaces(func, args, {}, out, capability, sms)]


def run(func: Any, *args: Any) -> list[tuple[int, int]]:
    return scratch(func, *args, out=func(*args))


def same(*sizes: int) -> list[tuple[int, int]]:
    return [(size, size) for size in sizes]
