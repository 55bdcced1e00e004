"""One parameter as an optimizer has it: its name, its torch param group, the tensors that go on from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Weight:
    """A parameter, the live torch param group it is in, and its named `state`; `index` is its number in the optimizer.

    Args:
        scales: of a weight in int8, see kernels/ops/int8.py.
        product_dtype: of a weight that is not stored as it is multiplied.
    """

    name: str
    index: int
    parameter: nn.Parameter
    group: dict[str, Any]
    state: dict[str, Tensor]
    scales: Tensor | None = None
    product_dtype: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What products with the weight are computed in."""
        return self.product_dtype or self.parameter.dtype

    @property
    def like(self) -> Tensor:
        """Some tensor of that dtype on the weight's device."""
        if self.product_dtype is None:
            return self.parameter
        return self.parameter.new_empty(0, dtype=self.product_dtype)

    @property
    def matrix(self) -> Tensor:
        """The weight's own memory as (m, n); see `as_matrix`."""
        return as_matrix(self.parameter.data)

    @property
    def in_reference_order(self) -> bool:
        """Whether the arithmetic goes in the order of the official code."""
        return bool(self.group["convention"] == "reference")


def as_matrix(x: Tensor) -> Tensor:
    """(m, n, …) → (m, n·…): the inputs of a convolution and its kernel are one side; a vector (n,) is (1, n)."""
    return x.view(1, -1) if x.ndim < 2 else x.flatten(1)
