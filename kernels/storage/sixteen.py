"""A matrix in 4 bits: rows and columns are brought to one size, and numbers to sixteen values of a normal distribution.

    x_ij ≈ r_i c_j v[q_ij],   r_i = √mean_j x_ij²,   c_j = √mean_i (x_ij / r_i)²

Momenta have rows and columns of very different sizes; what is left over is close to normal, and v are the sixteen
values of least squared error for that (Max, IRE Transactions on Information Theory 6, 1960, table I). An update that is
orthogonalized has its directions of small singular values from what is exact in small rows and columns: there one scale
for 128 elements of a row, with steps of a seventh of it, loses three times as much.

0 is none of the values; rows and columns of zeros stay so, by their sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from galore.kernels.storage.rounding import block_elements, blocks_of

POSITIVE = (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326)
_TINY = torch.finfo(torch.float32).tiny  # instead of a division by zero


def sizes(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 r (m,) and c (n,) of x (m, n), however small its numbers are: squares of their ratios are summed."""
    largest = x.abs().amax().clamp_min(_TINY)
    rows, columns = x.new_empty(x.shape[0]), x.new_zeros(x.shape[1])
    for first, last in _blocks(x):
        part = x[first:last] / largest
        rows[first:last] = part.square().mean(1).sqrt_()
        columns += part.div_(rows[first:last, None].clamp_min(_TINY)).square_().sum(0)
    return rows.mul_(largest), columns.div_(len(x)).sqrt_()


def quantize_(codes: Tensor, rows: Tensor, columns: Tensor, x: Tensor) -> None:
    """Overwrite codes (m, n / 2) uint8, the earlier of two numbers in the lower half, and sizes by those of fp32 x."""
    for held, found in zip((rows, columns), sizes(x), strict=True):
        held.copy_(found)
    between = bounds(x.device)
    inverse = columns.clamp_min(_TINY).reciprocal()
    for first, last in _blocks(x):
        part = (x[first:last] / rows[first:last, None].clamp_min(_TINY)).mul_(inverse)
        found = torch.bucketize(part.contiguous(), between, out_int32=True).to(torch.uint8)
        codes[first:last] = found[:, 0::2] | found[:, 1::2] << 4


def dequantize_(x: Tensor, codes: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Overwrite fp32 x (m, n) by what codes (m, n / 2) and sizes say."""
    table = values(codes.device)
    for first, last in _blocks(x):
        pairs = torch.stack([codes[first:last] & 15, codes[first:last] >> 4], dim=2)
        found = torch.index_select(table, 0, pairs.view(-1).int()).view(last - first, -1)
        torch.mul(found.mul_(rows[first:last, None]), columns, out=x[first:last])


@functools.cache
def values(device: torch.device) -> Tensor:
    """Fp32 (16,), the values, ascending; kept, as a GPU is waited for when it is given numbers of the host's."""
    upper = torch.tensor(POSITIVE, dtype=torch.float32, device="cpu")
    return torch.cat([-upper.flip(0), upper]).to(device)


@functools.cache
def bounds(device: torch.device) -> Tensor:
    """Fp32 (15,), midpoints: what is nearer to the next value than to the one before begins here."""
    ascending = values(torch.device("cpu"))
    return ((ascending[1:] + ascending[:-1]) / 2).to(device)


def _blocks(x: Tensor) -> Iterator[tuple[int, int]]:
    """(first, last) of rows of x (m, n) that are done together."""
    per_block = max(1, block_elements(x) // max(1, x.shape[1]))
    return ((first, last) for _, first, last in blocks_of(x, len(x), per_block))
