"""Weights out of one pool of numbers: what they are changes neither bytes nor seconds, and thousands of millions of them, drawn
one by one, take minutes.
"""

from __future__ import annotations

from typing import Any

POOL = 1 << 25  # numbers
STRIDE = 7_368_787  # by which the next tensor begins elsewhere in the pool; a prime


def draw_cheaply() -> None:
    """From here on large tensors of this process are filled from the pool, where a normal distribution is asked for."""
    import torch

    pool, drawn = torch.randn(POOL), torch.Tensor.normal_
    first = 0

    def from_pool(tensor: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Any:
        nonlocal first
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or mean or tensor.numel() < POOL // 32:
            return drawn(tensor, mean, std, generator=generator)
        with torch.no_grad():
            flat, done = tensor.view(-1), 0
            while done < len(flat):
                part = flat[done : done + POOL - first]
                torch.mul(pool[first : first + len(part)], std, out=part)
                done, first = done + len(part), (first + len(part)) % POOL
        first = (first + STRIDE) % POOL
        return tensor

    torch.Tensor.normal_ = from_pool  # type: ignore[method-assign,assignment]
