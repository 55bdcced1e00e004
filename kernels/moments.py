"""Adam's two moments as they are stored: fp32, bitsandbytes' dynamic 8 bits, or e4m3; the kernels go by the dtypes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from galore.kernels.blockwise import BLOCK_SIZE

__all__ = ["BLOCK_SIZE", "Kind", "Moments"]

Kind = Literal["float32", "dynamic", "e4m3"]
_KINDS: dict[torch.dtype, Kind] = {torch.float32: "float32", torch.uint8: "dynamic", torch.float8_e4m3fn: "e4m3"}


class Moments(NamedTuple):
    """m and v, each of k elements; with one fp32 absmax per 256 of them where they are codes, which e4m3 keeps of √v."""

    m: Tensor
    v: Tensor
    m_absmax: Tensor | None = None
    v_absmax: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return _KINDS[self.m.dtype]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self if x is not None)
