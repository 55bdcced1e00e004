"""The power of two of the largest element, of numbers of any size and of none."""

from __future__ import annotations

import math

import pytest
import torch

from galore.kernels.rules.power import leading_power

TINY = torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1.0, 1.0),
        (-3.9, 2.0),
        (2.0**127, 2.0**127),
        (1.5 * 2.0**-100, 2.0**-100),
        (1e-42, TINY),
        (0.0, TINY),
        (math.inf, math.inf),
        (math.nan, math.inf),
    ],
)
def test_of_the_largest_element(largest: float, expected: float) -> None:
    x = torch.tensor([[0.0, largest], [0.0, largest / 4]])
    assert leading_power(x).tolist() == expected
    assert leading_power(x, dim=1).tolist() == [[expected], [max(expected / 4, TINY)]]


def test_a_quotient_is_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 50)
    assert torch.equal(x / leading_power(x) * leading_power(x), x)
