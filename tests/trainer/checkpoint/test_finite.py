from __future__ import annotations

import math

import pytest
import torch

from galore.trainer.checkpoint import finite
from galore.trainer.checkpoint.finite import not_finite

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 7, 998, 999])
def test_one_bad_value_anywhere_is_seen(
    dtype: torch.dtype, value: float, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "CHUNK", 7)
    tensor = torch.randn(37, 27).to(dtype)
    tensor.view(-1)[at if at < 998 else at - 1000] = value
    assert not_finite([("good", torch.ones(3)), ("bad", tensor), ("turned", tensor.T)]) == ["bad", "turned"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_numbers_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    most = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert not_finite([("most", most), ("cancels", torch.cat([most, -most]))]) == []


def test_inf_and_minus_inf_do_not_cancel() -> None:
    assert not_finite([("both", torch.tensor([math.inf, -math.inf, 1.0]))]) == ["both"]


def test_bytes() -> None:
    """e4m3 has a nan; codes have none, and an empty tensor has nothing."""
    fp8 = torch.ones(9).to(torch.float8_e4m3fn)
    bad = torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)
    codes = torch.full((9,), 255, dtype=torch.uint8)
    tensors = [("fp8", fp8), ("bad", bad), ("codes", codes), ("none", torch.empty(0)), ("count", torch.tensor(3))]
    assert not_finite(tensors) == ["bad"]
