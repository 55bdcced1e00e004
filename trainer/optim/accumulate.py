"""The running sum of what the backward hands over, in a chosen precision."""

from __future__ import annotations

import torch
from torch import Tensor


class GradientSum:
    """Σ over micro-batches in `dtype`. A first term of fewer bits is kept as it comes, until a second one is added."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.value: Tensor | None = None

    def add(self, term: Tensor) -> None:
        """Add `term`, which the caller gives up."""
        if self.value is None:
            self.value = term if term.dtype.itemsize <= self.dtype.itemsize else term.to(self.dtype)
        else:
            self.value = self.value.to(self.dtype).add_(term)

    def take(self) -> Tensor:
        """Return the sum and forget it."""
        value, self.value = self.value, None
        assert value is not None, "nothing was accumulated"
        return value
