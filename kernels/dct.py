"""Subspaces of chosen columns of the DCT-II basis, the same for all matrices: r indices are all there is to keep.

The method is that of arXiv 2505.17967: the columns that align best with the gradient take the place of its leading
singular vectors. D (a, a) is orthonormal, column j is D[i, j] = √(2/a) cos(π (2i + 1) j / 2a), j = 0 divided by √2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galore.kernels.storage.rounding import block_elements

INT16_ROWS = 1 << 15  # up to here an index fits int16, and the integers of `dct_matrix` fit int32


def index_dtype(rows: int) -> torch.dtype:
    """What indices of the columns of D (rows, rows) are kept in."""
    return torch.int16 if rows <= INT16_ROWS else torch.int32


def dct_matrix(rows: int, indices: Tensor, like: Tensor) -> Tensor:
    """P (a, r): the columns `indices` (r,) of D, of the dtype and on the device of `like`, rounded once.

    The angle is reduced modulo 2π among integers: in fp32 its rounding would be larger than the result's.
    """
    integers = torch.int32 if rows <= INT16_ROWS else torch.int64
    odd = torch.arange(1, 2 * rows, 2, device=like.device, dtype=integers)
    column = indices.to(like.device, integers)
    angles = torch.arange(4 * rows, device=like.device, dtype=torch.float64) * (math.pi / (2 * rows))
    cosines = (angles.cos() * (2 / rows) ** 0.5).to(like.dtype)
    p = cosines[(odd[:, None] * column).remainder_(4 * rows)]
    return torch.where(column == 0, torch.full_like(p[:1, :1], rows**-0.5), p)


def random_basis(rows: int, rank: int, seed: int, device: torch.device) -> Tensor:
    """P (rows, rank) in fp32 with orthonormal columns, from `seed` alone and without any decomposition.

    `rank` columns of D at random, its rows with random signs (Halko, Martinsson, Tropp 2011, section 4.6).
    """
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randperm(rows, generator=generator, device="cpu")[:rank]
    signs = 1.0 - 2.0 * torch.randint(2, (rows, 1), generator=generator, dtype=torch.float32, device="cpu")
    return dct_matrix(rows, columns, torch.empty(0, device=device, dtype=torch.float32)).mul_(signs.to(device))


def dct(x: Tensor) -> Tensor:
    """Dᵀ x (a, n) in fp32 for x (a, n), in O(a log a · n) by one real FFT of length a (Makhoul 1980)."""
    a, x = x.shape[0], x.float()
    spectrum = torch.fft.rfft(torch.cat([x[::2], x[1::2].flip(0)]), dim=0)
    angles = torch.arange(a // 2 + 1, device=x.device, dtype=torch.float64) * (math.pi / (2 * a))
    turned = spectrum * torch.polar(torch.ones_like(angles), -angles).to(spectrum.dtype)[:, None]
    scaled = torch.cat([turned.real, -turned.imag[1 : (a + 1) // 2].flip(0)]).mul_((2 / a) ** 0.5)
    scaled[:1].mul_(0.5**0.5)
    return scaled


def column_energies(g: Tensor) -> Tensor:
    """‖Dᵀ g‖² of each row, (a,) in fp32, for g (a, n), without a temporary of its size."""
    energies = torch.zeros(g.shape[0], device=g.device, dtype=torch.float32)
    width = max(1, block_elements(g) // g.shape[0])
    for first in range(0, g.shape[1], width):
        energies += dct(g[:, first : first + width]).square_().sum(1)
    return energies


def top_columns(g: Tensor, rank: int) -> Tensor:
    """Indices (r,), ascending, of the columns of D that capture most of g (a, n): its r largest ‖Dᵀ g‖² by row.

    g is an oriented gradient (a, b), or its sketch G Ω with a Gaussian Ω, whose row norms estimate those of the
    gradient. Of equals the lower index is taken, so that the choice is the same everywhere.
    """
    best = torch.sort(column_energies(g), descending=True, stable=True).indices[:rank]
    return best.sort().values.to(index_dtype(g.shape[0]))
