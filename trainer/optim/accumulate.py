"""The running sum of what the backward hands over, in a chosen precision."""

from __future__ import annotations

import torch
from torch import Tensor


class GradientSum:
    """Σ over micro-batches. The first term is kept as it comes, without a copy; a second one makes it `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.value: Tensor | None = None

    def add(self, term: Tensor) -> None:
        """Add `term`, which the caller gives up."""
        if self.value is None:
            self.value = term
        else:
            self.value = self.value.to(self.dtype).add_(term)

    def take(self) -> Tensor:
        """Return the sum and forget it."""
        value, self.value = self.value, None
        assert value is not None, "nothing was accumulated"
        return value

    @property
    def nbytes(self) -> int:
        return 0 if self.value is None else self.value.nbytes
