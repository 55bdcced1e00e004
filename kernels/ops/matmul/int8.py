"""Products in int8: sums of codes are exact in int32, within a group of the weight or along the whole row."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.ops.matmul.format import Bits, Format, uniform
from galore.kernels.storage.coded import Coded

LARGEST = 127


def encode(value: Tensor, bits: Bits) -> Tensor:
    """⌊v + u⌋ with u uniform, or the nearest integer."""
    value = value.round_() if bits is None else value.add_(uniform(bits)).floor_()
    return value.clamp_(-LARGEST, LARGEST).to(torch.int8)


def multiply(a: Coded, b: Coded) -> Tensor:
    """Σ over groups of scale · (int32 sum of the group)."""
    if b.whole:
        return torch._int_mm(a.codes, b.codes.mT).float().mul_(b.scales[:, 0].float())
    out = a.scales.new_zeros(a.codes.shape[0], b.codes.shape[0])
    for group, scale in enumerate(b.scales.float().unbind(1)):
        part = slice(group * b.size, (group + 1) * b.size)
        out.addcmul_(torch._int_mm(a.codes[:, part], b.codes[:, part].mT).float(), scale)
    return out


INT8 = Format("int8", torch.int8, LARGEST, encode, multiply, "torch._int_mm", reads_int8=True, capability=(8, 0))
