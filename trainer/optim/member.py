"""One parameter and what belongs to it: its name, its torch param group, the tensors that the optimizer keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(eq=False)
class Member:
    """`index` counts the optimizer's parameters; `group` is the live torch param group, `state` the named tensors."""

    name: str
    index: int
    parameter: nn.Parameter
    group: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def matrix(self) -> Tensor:
        """The weight's own memory as (m, n); see `as_matrix`."""
        return as_matrix(self.parameter.data)


def as_matrix(x: Tensor) -> Tensor:
    """(m, n, …) → (m, n·…): the inputs of a convolution and its kernel are one side; a vector (n,) is (1, n)."""
    return x.view(1, -1) if x.ndim < 2 else x.flatten(1)
