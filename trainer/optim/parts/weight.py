"""One parameter as an optimizer has it: its name, its torch param group, the tensors that go on from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.storage.rounding import mix
from galore.trainer.optim.parts.shards import Shard, Sharing, local, shard_of


@dataclass(eq=False)
class Weight:
    """A parameter, the live torch param group it is in, and its named `state`; `index` is its number in the optimizer.

    Args:
        scales: of a weight in int8, see kernels/ops/int8.py.
        product_dtype: of a weight that is not stored as it is multiplied.
        ranks: who hold the other parts of a weight that is sharded.
    """

    name: str
    index: int
    parameter: nn.Parameter
    group: dict[str, Any]
    state: dict[str, Tensor]
    scales: Tensor | None = None
    product_dtype: torch.dtype | None = None
    ranks: Sharing | None = None
    shard: Shard | None = field(init=False)  # which part of the parameter is here; None is all of it

    def __post_init__(self) -> None:
        self.shard = shard_of(self.parameter)

    @property
    def local(self) -> Tensor:
        """What is here of the parameter: all of it, unless it is sharded."""
        return local(self.parameter)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the whole."""
        shape = self.parameter.shape
        return (1, shape.numel()) if len(shape) < 2 else (shape[0], shape[1:].numel())

    @property
    def noise(self) -> int:
        """The weight's number in the key of random bits: those of one part are no other's."""
        return self.index if self.shard is None else mix(self.index, self.shard.start)

    def whole(self, held: torch.Size) -> torch.Size:
        """The shape that a state of shape `held` has over all ranks: of the parameter, or (r, b)."""
        if self.shard is None:
            return held
        return self.parameter.shape if held == self.local.shape else torch.Size((held[0], self.shape[self.shard.dim]))

    @property
    def dtype(self) -> torch.dtype:
        """What products with the weight are computed in."""
        return self.product_dtype or self.parameter.dtype

    @property
    def like(self) -> Tensor:
        """Some tensor of that dtype on the weight's device."""
        if self.product_dtype is None:
            return self.parameter if self.shard is None else self.local
        return self.local.new_empty(0, dtype=self.product_dtype)

    @property
    def matrix(self) -> Tensor:
        """The weight's own memory as (m, n), or what is here of it; see `as_matrix`."""
        return as_matrix(self.local)

    def clock(self) -> int:
        """Optimizer steps taken so far."""
        return int(self.group["clock"])

    @property
    def in_reference_order(self) -> bool:
        """Whether the arithmetic goes in the order of the official code."""
        return bool(self.group["convention"] == "reference")


def as_matrix(x: Tensor) -> Tensor:
    """(m, n, …) → (m, n·…): the inputs of a convolution and its kernel are one side; a vector (n,) is (1, n)."""
    return x.view(1, -1) if x.ndim < 2 else x.flatten(1)
