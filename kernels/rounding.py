"""Adding an fp32 update to stored weights: exact in fp32, stochastically rounded or to nearest in bf16.

Stochastic rounding adds 16 uniform random bits below the bf16 mantissa and truncates, so the expected value is the fp32
sum. The sum is formed in fp32 first: rounding it before the random bits are added would lose most of a small update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.device import device_type

BLOCK = {  # elements handled at a time: the fp32 temporaries of one block stay in cache
    "cpu": 1 << 18,
    "cuda": 1 << 22,  # 16 MiB each; smaller ones would cost more in launches than in work
}
_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A 63-bit hash of integers (splitmix64 finaliser): independent seeds from (seed, step, tensor, block)."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = ((state ^ (word & _MASK)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def block_elements(on: Tensor | torch.device) -> int:
    """Elements handled at a time on the device of `on`."""
    return BLOCK.get(device_type(on), BLOCK["cuda"])


class RoundingNoise:
    """Random bits of one optimizer step, keyed by (seed, step, tensor, element block) and by nothing else.

    One pool of two blocks of values is drawn per step; every block of every tensor reads a window of it at its own random
    offset. A single element's bits are uniform; two elements share bits only by a chance that is redrawn every step.
    """

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(mix(seed, step, 0x5EED))
        self.block = block_elements(device)
        size = (0,) if device.type == "meta" else (2 * self.block,)  # nobody reads the numbers there
        drawn = torch.randint(0, 1 << 16, size, generator=generator, dtype=torch.int32)
        self.pool = drawn.new_empty(2 * self.block, device=device) if device.type == "meta" else drawn.to(device)
        self.key = (seed, step)

    def window(self, tensor: int, block: int, length: int) -> Tensor:
        """int32 (length,), values in [0, 65535]; a window longer than a block repeats the pool."""
        offset = mix(*self.key, tensor, block) % self.block
        if length > self.block:
            return self.pool.roll(offset).repeat(-(-length // self.pool.numel()))[:length]
        return self.pool[offset : offset + length]


def store_rounded_(w: Tensor, value: Tensor, noise: Tensor | None) -> None:
    """Write fp32 `value` (k,) into contiguous `w` (k,): stochastically into bf16 where `noise` (k,) is given."""
    if noise is None or w.dtype != torch.bfloat16:
        w.copy_(value)
        return
    bits = value.view(torch.int32)
    bits.add_(noise)
    w.view(torch.int16).copy_(bits.view(torch.int16)[1::2])  # little-endian: the upper half is the bf16 number


def add_update_(
    w: Tensor, update: Tensor, *, alpha: float, decay: float, decay_after: bool = False, noise: Tensor | None = None
) -> None:
    """w ← decay·w + alpha·update in fp32, rounded once; `decay_after`: w ← decay·(w + alpha·update).

    Args:
        w: (k,) contiguous, fp32 or bf16, in place.
        update: (k,) any floating dtype.
    """
    value = w if w.dtype == torch.float32 else w.float()
    if decay != 1.0 and not decay_after:
        value.mul_(decay)
    value.add_(update, alpha=alpha)
    if decay != 1.0 and decay_after:
        value.mul_(decay)
    if value is not w:
        store_rounded_(w, value, noise)
