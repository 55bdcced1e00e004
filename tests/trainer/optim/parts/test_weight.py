"""A parameter as an optimizer has it: one matrix, whatever its shape, in the type that products have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from galore.trainer.optim.parts.weight import Weight, as_matrix


def weight(parameter: nn.Parameter, convention: str = "ours", **more: Any) -> Weight:
    return Weight("w", 0, parameter, {"convention": convention}, {}, **more)


@pytest.mark.parametrize(
    ("shape", "matrix"), [((), (1, 1)), ((5,), (1, 5)), ((3, 4), (3, 4)), ((8, 3, 2, 2), (8, 12)), ((2, 3, 5), (2, 15))]
)
def test_every_shape_is_a_matrix(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    assert as_matrix(torch.empty(shape)).shape == matrix


def test_the_matrix_is_the_weights_own_memory() -> None:
    parameter = nn.Parameter(torch.zeros(4, 3, 2))
    weight(parameter).matrix[1, 5] = 7.0
    assert parameter[1, 2, 1].item() == 7.0
    assert not weight(parameter).matrix.requires_grad


def test_products_are_in_the_type_of_the_weight_unless_it_is_stored_otherwise() -> None:
    plain = weight(nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)))
    assert plain.dtype is torch.bfloat16
    assert plain.like is plain.parameter
    stored = weight(
        nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False), product_dtype=torch.bfloat16
    )
    assert stored.dtype is torch.bfloat16
    assert (stored.like.dtype, stored.like.device) == (torch.bfloat16, stored.parameter.device)


def test_the_order_follows_the_live_group() -> None:
    found = weight(nn.Parameter(torch.zeros(1)))
    assert not found.in_reference_order
    found.group["convention"] = "reference"
    assert found.in_reference_order


def test_weights_are_told_apart_by_identity() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    assert weight(parameter) != weight(parameter)  # comparing tensors would be no answer
