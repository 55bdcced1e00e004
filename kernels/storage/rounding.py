"""Adding an fp32 update to stored weights: exact in fp32, float64; in bf16 rounded by chance, compensated, to nearest.

Stochastic rounding adds 16 uniform random bits below the bf16 mantissa and truncates, so the expected value is the fp32
sum. The sum is formed in fp32 first: rounding it before the random bits are added would lose most of a small update.

A compensated weight keeps beside its bf16 W an integer C, the distance of the fp32 number V from W in units of V's last
bits, so that bits(V) = bits(W)·2¹⁶ + C exactly. W is V rounded to nearest, ties away from 0: with ties to even C would
not fit. C = 0 says V = W.

| C | bytes | V |
|---|---|---|
| int16 | 2 | all of fp32: an update does to V, bit for bit, what it does to an fp32 weight |
| int8 | 1 | the upper 24 bits of fp32 (16 of the 24 of its significand), rounded stochastically where noise is given |

A second bf16 in place of C (Kahan's sum) has the bytes of int16 and carries fewer bits: the exponent is kept twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.device import device_type, generator_for, rounds

# Elements handled at a time: the fp32 temporaries of one block stay in cache.
BLOCK = {
    "cpu": 1 << 18,
    "cuda": 1 << 22,  # 16 MiB each; smaller ones would cost more in launches than in work
}
PLAIN_NAN = ("cpu",)  # devices that make no other NaN
WIDE = (torch.float32, torch.float64)  # weights that an fp32 update is added to in place
_MASK = (1 << 64) - 1


def mix(*words: int) -> int:
    """A 63-bit hash of integers (splitmix64 finalizer): independent seeds from (seed, step, tensor, block)."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = ((state ^ (word & _MASK)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def block_elements(on: Tensor | torch.device) -> int:
    """Elements handled at a time on the device of `on`."""
    return BLOCK.get(device_type(on), BLOCK["cuda"])


def blocks_of(tensor: Tensor, size: int, per_block: int) -> Iterator[tuple[int, int, int]]:
    """(block number, first, last) of `size` rows or elements of `tensor`, `per_block` at a time.

    On `meta` one block stands for all but the first and the last.
    """
    for first in rounds(tensor, range(0, size, per_block), leading=1):
        yield first // per_block, first, min(first + per_block, size)


def element_blocks(flat: Tensor) -> Iterator[tuple[int, int, int]]:
    """`blocks_of` the elements of flat (k,), as many as its device does at a time."""
    return blocks_of(flat, flat.numel(), block_elements(flat))


def key_words(seed: int, step: int, tensor: int) -> tuple[int, int]:
    """Two numbers in [-2³¹, 2³¹), the key of `reference.random_bits` for all elements of a tensor in one step."""
    key = mix(seed, step, tensor, 0x1157)
    return (key & 0xFFFFFFFF) - (1 << 31), key >> 32


class RoundingNoise:
    """Random bits of one optimizer step, keyed by (seed, step, tensor, element block) and by nothing else.

    One pool of two blocks of values is drawn per step; every block of every tensor reads a window of it at its own
    random offset. A single element's bits are uniform; two elements share bits only by a chance that is redrawn every
    step.
    """

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        self.block = block_elements(device)
        generator = generator_for(device, mix(seed, step, 0x5EED))
        if device.type == "meta":  # nobody reads the numbers there
            self.pool = torch.empty(2 * self.block, dtype=torch.int32, device=device)
        else:
            drawn = torch.empty(2 * self.block, dtype=torch.int32, device=generator.device)
            self.pool = drawn.random_(0, 1 << 16, generator=generator).to(device)
        self.key = (seed, step)

    def words(self, tensor: int) -> tuple[int, int]:
        """`key_words` of a tensor in this step."""
        return key_words(*self.key, tensor)

    def window(self, tensor: int, block: int, length: int) -> Tensor:
        """int32 (length,), values in [0, 65535]; a window longer than a block repeats the pool."""
        offset = mix(*self.key, tensor, block) % self.block
        if length > self.block:
            return self.pool.roll(offset).repeat(-(-length // self.pool.numel()))[:length]
        return self.pool[offset : offset + length]


def plain_nan_(value: Tensor) -> Tensor:
    """fp32 `value` with 0x7FC00000 for every NaN, in place: NVIDIA's, 0x7FFFFFFF, becomes -0.0 by what is added."""
    return value if device_type(value) in PLAIN_NAN else value.nan_to_num_(math.nan, math.inf, -math.inf)


def store_rounded_(w: Tensor, value: Tensor, noise: Tensor | None) -> None:
    """Write fp32 `value` (k,), used up, into contiguous `w` (k,): stochastically into bf16 if `noise` (k,) is given."""
    if noise is None or w.dtype != torch.bfloat16:
        w.copy_(value)
        return
    plain_nan_(value).view(torch.int32).add_(noise).bitwise_and_(-1 << 16)
    w.copy_(value)  # exact: nothing is left below bf16's bits


def read_compensated(w: Tensor, compensation: Tensor) -> Tensor:
    """V in fp32, a new tensor, of a bf16 w and its int16 or int8 compensation of the same shape."""
    value = w.float()
    value.view(torch.int32).add_(compensation, alpha=1 if compensation.dtype == torch.int16 else 1 << 8)
    return value


def store_compensated_(w: Tensor, compensation: Tensor, value: Tensor, noise: Tensor | None = None) -> None:
    """Write fp32 `value` (k,), which is used up, into contiguous bf16 `w` (k,) and its compensation (k,).

    Args:
        noise: int32 (k,) as of `RoundingNoise`; rounds what int8 cannot keep. int16 keeps all of `value` and needs
            none.
    """
    bits = plain_nan_(value).view(torch.int32)
    if compensation.dtype == torch.int16:
        half, lower = 1 << 15, bits.view(torch.int16)[0::2]
    else:
        half, lower = 1 << 7, bits.view(torch.int8)[1::4]
        bits.add_(half if noise is None else noise & 0xFF)
    bits.add_(1 << 15)  # half a unit of W: the upper half is now W, and the lower one C + half
    w.view(torch.int16).copy_(bits.view(torch.int16)[1::2])
    compensation.copy_(lower).bitwise_xor_(-half)


def add_update_(
    w: Tensor,
    update: Tensor,
    *,
    alpha: float,
    decay: float,
    decay_after: bool = False,
    noise: Tensor | None = None,
    scratch: Tensor | None = None,
) -> None:
    """w ← decay·w + alpha·update in fp32 or float64, rounded once; `decay_after`: w ← decay·(w + alpha·update).

    Args:
        w: (k,) contiguous, fp32, float64 or bf16, in place.
        update: (k,) any floating dtype.
        scratch: fp32 (k,) or more, which fp32 sums of a bf16 w are formed in; None allocates.
    """
    if w.dtype in WIDE:
        updated_(w, update, alpha, decay, decay_after)
        return
    value = w.float() if scratch is None else scratch[: w.numel()].copy_(w)
    updated_(value, update, alpha, decay, decay_after)
    store_rounded_(w, value, noise)


def add_update_compensated_(
    w: Tensor,
    compensation: Tensor,
    update: Tensor,
    *,
    alpha: float,
    decay: float,
    decay_after: bool = False,
    noise: Tensor | None = None,
) -> None:
    """`add_update_` on the compensated weight: V ← decay·V + alpha·update in fp32, kept in w and compensation.

    Args:
        w: (k,) contiguous bf16, in place.
        compensation: (k,) contiguous int16 or int8, in place; zeros at first.
        noise: see `store_compensated_`.
    """
    value = read_compensated(w, compensation)
    updated_(value, update, alpha, decay, decay_after)
    store_compensated_(w, compensation, value, noise)


def updated_(value: Tensor, update: Tensor, alpha: float, decay: float, decay_after: bool) -> None:
    """value ← decay·value + alpha·update, or decay·(value + alpha·update), in the dtype of value."""
    if decay != 1.0 and not decay_after:
        value.mul_(decay)
    value.add_(update, alpha=alpha)
    if decay != 1.0 and decay_after:
        value.mul_(decay)
