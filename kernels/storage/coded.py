"""A matrix in 8-bit codes as products read it: rows along the summands, a scale per row or per group of a row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEP = 16  # bytes that rows of codes are a multiple of, as the widest loads want them
WIDTH = 128  # codes to a group that is made anew


class Coded(NamedTuple):
    """X (M, N) ≈ codes · scales: codes int8 or float8_e4m3fn (M, N), scales (M, groups), `size` codes to a group.

    Both may be views with strides of their own, a row of codes being contiguous.
    """

    codes: Tensor
    scales: Tensor
    size: int

    @property
    def whole(self) -> bool:
        """Whether a row has one scale."""
        return self.scales.shape[1] == 1

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the codes stand for, (M, N)."""
        columns = self.codes.shape[1]
        scales = self.scales.to(dtype).repeat_interleave(self.size, dim=1)[:, :columns]
        return self.codes.to(dtype) * scales


def padded(columns: int) -> int:
    """Bytes of a row of codes."""
    return -(-columns // STEP) * STEP


def empty_codes(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for codes (rows, columns), rows padded; kernels write 0 there."""
    return torch.empty(rows, padded(columns), dtype=dtype, device=like.device)[:, :columns]
