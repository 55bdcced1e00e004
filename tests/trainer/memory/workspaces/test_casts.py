"""Whole-tensor casts of the CPU: as many bytes as its allocator hands out beside an operation's result."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from galore.trainer.memory.workspaces.casts import cpu_workspaces

N = 1000
BF16, FP32, FP64, INT = torch.bfloat16, torch.float32, torch.float64, torch.int32


def of(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.ones(shape or (N,), dtype=dtype)


CASES: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "one type": (lambda: of(BF16) + of(BF16), []),
    "a number": (lambda: of(BF16) * 2.5, []),
    "a scalar tensor of more bits": (lambda: of(BF16) * torch.tensor(2.0), []),
    "two types": (lambda: of(BF16) + of(FP32), [4 * N]),
    "into the wider": (lambda: of(FP32).add_(of(BF16)), [4 * N]),
    "two casts": (lambda: of(BF16) - of(INT), [2 * N]),
    "integers": (lambda: of(INT) * of(FP64), [8 * N]),
    "broadcast": (lambda: of(FP32, 10, N) * of(BF16), [4 * N]),
    "divided": (lambda: of(FP32).div_(of(BF16)), [4 * N]),
    "subtracted the other way": (lambda: torch.rsub(of(BF16), of(FP32)), [4 * N]),
    "larger of two": (lambda: torch.maximum(of(BF16), of(FP32)), [4 * N]),
    "smaller of two": (lambda: torch.minimum(of(BF16), of(FP32)), [4 * N]),
    "chosen": (lambda: torch.where(of(torch.bool), of(FP32), of(FP32)), []),
    "chosen among two types": (lambda: torch.where(of(torch.bool), of(BF16), of(FP32)), [4 * N]),
    "chosen or a number": (lambda: torch.where(of(torch.bool), of(BF16), 0.0), []),
    "masked": (lambda: of(BF16) * of(torch.bool), [2 * N]),
    "product added": (lambda: of(FP32).addcmul_(of(BF16), of(BF16)), [4 * N, 4 * N]),
    "quotient added": (lambda: of(FP32).addcdiv_(of(FP32), of(BF16)), [4 * N]),
    "norm": (lambda: torch.linalg.vector_norm(of(BF16)), []),
    "norm in float32": (lambda: torch.linalg.vector_norm(of(BF16), dtype=FP32), [4 * N]),
    "norm in its own type": (lambda: torch.linalg.vector_norm(of(FP32), dtype=FP32), []),
    "sum in float64": (lambda: of(FP32).sum(dtype=FP64), [8 * N]),
    "mean in float32": (lambda: of(BF16).mean(0, dtype=FP32), [4 * N]),
    "product in float32": (lambda: of(BF16).prod(dtype=FP32), [4 * N]),
    "sum": (lambda: of(BF16).sum(), []),
}


class Last(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The last operation with its arguments and result."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen = (func, args, kwargs or {}, out)
        return out


@pytest.mark.parametrize("case", CASES)
def test_casts(case: str) -> None:
    operation, expected = CASES[case]
    with Last() as last:
        operation()
    assert cpu_workspaces(*last.seen) == [(size, size) for size in expected]
    func, args, kwargs, _ = last.seen
    assert 0 <= taken_beside_the_result(lambda: func(*args, **kwargs)) - sum(expected) < 16  # a number's own cast


def taken_beside_the_result(operation: Callable[[], Any]) -> int:
    """Most bytes at once in an operation, less what it leaves."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = operation()
    assert profile.profiler is not None
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    del result
    return max(accumulate(changes), default=0) - sum(changes)
