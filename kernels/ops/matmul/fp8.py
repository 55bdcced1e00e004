"""Products in e4m3 with fp32 sums: 4 bits of exponent and 3 of mantissa, so that small numbers of a row keep theirs."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.ops.matmul.format import Bits, Format, uniform
from galore.kernels.storage.coded import Coded
from galore.kernels.storage.fp8 import LARGEST

SMALLEST = 127 - 6  # exponent, as fp32 keeps it, below which steps are even
MANTISSA = 3


def encode(value: Tensor, bits: Bits) -> Tensor:
    """Nearest even code, or ⌊v / step + u⌋ step with u uniform and the step of v's octave."""
    if bits is not None:
        exponent = (value.view(torch.int32) >> 23).bitwise_and_(255).clamp_min_(SMALLEST)
        step = (exponent.sub_(MANTISSA) << 23).view(torch.float32)
        value = value.div_(step).add_(uniform(bits)).floor_().mul_(step)
    return value.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def multiply(a: Coded, b: Coded) -> Tensor:
    """The CPU has no such products: in bf16, which holds every code, its sums rounded once to bf16."""
    return (a.codes.bfloat16() @ b.codes.bfloat16().mT).float().mul_(b.scales[:, 0].float())


FP8 = Format(
    "fp8",
    torch.float8_e4m3fn,
    LARGEST,
    encode,
    multiply,
    "emulated: slower than bf16",
    reads_int8=False,
    capability=(8, 9),
)
