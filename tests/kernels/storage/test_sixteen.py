"""Matrices in 4 bits: what is lost, against float64, and that sizes of rows and columns cost nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galore.kernels.storage import rounding, sixteen


def kept(x: Tensor) -> Tensor:
    """What is left of x."""
    codes = torch.zeros(len(x), x.shape[1] // 2, dtype=torch.uint8)
    rows, columns = torch.zeros(len(x)), torch.zeros(x.shape[1])
    sixteen.quantize_(codes, rows, columns, x)
    found = torch.full(x.shape, torch.nan)
    sixteen.dequantize_(found, codes, rows, columns)
    return found


def error(x: Tensor) -> float:
    x, found = x.double(), kept(x).double()
    return float((found - x).norm() / x.norm())


def test_error_is_that_of_sixteen_values_of_a_normal_distribution() -> None:
    """Max's table: a squared error of 0.009497 of the variance."""
    x = torch.randn(512, 768)
    assert error(x) == pytest.approx(0.009497**0.5, rel=0.02)
    sizes = torch.randn(512, 1).mul(2).exp(), torch.randn(768).mul(0.5).exp()
    scaled = x * sizes[0] * sizes[1]
    relative = (kept(scaled) - scaled) / sizes[0] / sizes[1]
    assert float(relative.norm() / x.norm()) == pytest.approx(0.009497**0.5, rel=0.03)


def test_values_are_the_least_squared_error_of_a_normal_distribution() -> None:
    """Each is the mean of what is brought to it."""
    x = torch.randn(2_000_000, dtype=torch.float64)
    values = sixteen.values(torch.device("cpu")).double()
    nearest = (x[:, None] - values).abs().argmin(1)
    for number, value in enumerate(values):
        assert float(x[nearest == number].mean()) == pytest.approx(float(value), abs=0.02)


@pytest.mark.parametrize("exponent", [-35, -20, 30])
def test_however_small_or_large_the_numbers_are(exponent: int) -> None:
    x = torch.randn(64, 64)
    assert error(x * 10.0**exponent) == pytest.approx(error(x), rel=0.05)


def test_rows_and_columns_of_zeros_stay_so() -> None:
    x = torch.randn(8, 12)
    x[3], x[:, 5] = 0, 0
    found = kept(x)
    assert not found[3].any()
    assert not found[:, 5].any()
    assert found.isfinite().all()
    assert not kept(torch.zeros(4, 6)).any()


def test_blocks_of_rows_change_nothing_but_the_order_of_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(37, 50)
    whole = kept(x)
    monkeypatch.setitem(rounding.BLOCK, "cpu", 4 * 50)
    assert kept(x).allclose(whole, rtol=1e-5)


def test_a_view_of_another_layout_is_kept_alike() -> None:
    x = torch.randn(40, 30)
    assert kept(x.mT.contiguous().mT).allclose(kept(x), rtol=1e-5)
