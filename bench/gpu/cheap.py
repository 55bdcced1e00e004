"""Weights out of one pool of numbers: what they are changes neither bytes nor seconds, and thousands of millions of them, drawn
one by one, take minutes.
"""

from __future__ import annotations

from typing import Any

POOL = 1 << 22  # numbers, over and over


def draw_cheaply() -> None:
    """From here on large tensors of this process are filled from the pool, where a normal distribution is asked for."""
    import torch

    pool, drawn = torch.randn(POOL), torch.Tensor.normal_

    def from_pool(tensor: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or mean or tensor.numel() < POOL:
            return drawn(tensor, mean, std, generator=generator)
        with torch.no_grad():
            for part in tensor.view(-1).split(POOL):
                part.copy_(pool[: part.numel()]).mul_(std)
        return tensor

    torch.Tensor.normal_ = from_pool  # type: ignore[method-assign,assignment]
