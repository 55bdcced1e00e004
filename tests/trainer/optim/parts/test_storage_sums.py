"""Sums over micro-batches are as exact as the precision that was chosen for them."""

import pytest
import torch

from galore.trainer.optim.parts.storage import GradientSum


@pytest.mark.parametrize(("dtype", "total"), [(torch.float32, 1 + 64 * 2**-9), (torch.bfloat16, 1.0)])
def test_small_terms_in_bf16_arrive_in_a_wider_sum(dtype: torch.dtype, total: float) -> None:
    accumulated = GradientSum(dtype)
    for term in (1.0, *[2**-9] * 64):
        accumulated.add(torch.full((3,), term, dtype=torch.bfloat16))
    value = accumulated.take()
    assert value.dtype == dtype
    assert value.tolist() == [total] * 3
    assert accumulated.value is None
