"""Orthonormal bases of a gradient's leading subspace, in fp32, with a fallback when a decomposition does not converge."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from galore.kernels.reference import orient


class Basis(NamedTuple):
    """P (a, r) in fp32 with orthonormal columns, and whether the ordinary algorithm failed on the way to it."""

    p: Tensor
    fell_back: bool


def svd_basis(grad: Tensor, rank: int) -> Basis:
    """The `rank` leading singular vectors of grad (m, n) on its smaller side; by eigh in float64 where SVD fails.

    Takes the gradient as it is stored, not oriented: LAPACK chooses the vectors' signs by the layout it is given, and
    moments kept across refreshes depend on those signs.
    """
    grad = grad.float()
    try:
        u, _, vh = torch.linalg.svd(grad, full_matrices=False)
        return Basis((vh[:rank].mT if grad.shape[0] >= grad.shape[1] else u[:, :rank]).contiguous(), False)
    except LinAlgError:
        g = orient(grad).double()
        return Basis(torch.linalg.eigh(g @ g.mT).eigenvectors.flip(-1)[:, :rank].float().contiguous(), True)


def range_basis(y: Tensor, rank: int) -> Basis:
    """An orthonormal basis of the sketch y = G Ω (a, r) by Householder QR, signs fixed so that diag(R) ≥ 0.

    A fixed sign keeps the coordinates of a slowly turning subspace steady, which the kept moments rely on.
    """
    q, r = torch.linalg.qr(y.float())
    signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
    q = (q * signs)[:, :rank].contiguous()
    if bool(torch.isfinite(q).all()):
        return Basis(q, False)
    return Basis(torch.linalg.qr(torch.nan_to_num(y.double())).Q[:, :rank].float().contiguous(), True)


def randomized_basis(g: Tensor, rank: int, omega: Tensor, power_iterations: int = 2) -> Basis:
    """Randomized range finder on a whole gradient g (a, b) from omega (b, r) (Halko et al. 2011, algorithm 4.4)."""
    g = g.float()
    basis = range_basis(g @ omega.float(), rank)
    for _ in range(power_iterations):
        co_basis = range_basis(g.mT @ basis.p, rank)
        basis = Basis(range_basis(g @ co_basis.p, rank).p, basis.fell_back or co_basis.fell_back)
    return basis


_drawn: WeakValueDictionary[Any, Tensor] = WeakValueDictionary()


def gaussian(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """Ω (rows, columns) ~ N(0, 1), drawn in fp32 from `seed` alone, of the dtype and on the device of `like`.

    All who ask for the same one while it is alive share it: do not write into it.
    """
    key = (rows, columns, seed, like.dtype, like.device)
    omega = _drawn.get(key)
    if omega is None:
        generator = torch.Generator().manual_seed(seed)
        empty = like.is_meta  # nobody reads the numbers there
        omega = like.new_empty(rows, columns) if empty else torch.randn(rows, columns, generator=generator).to(like)
        _drawn[key] = omega
    return omega


def overlap(p_old: Tensor, p_new: Tensor) -> Tensor:
    """‖P_oldᵀ P_new‖²_F / r in [0, 1]: how much of the new subspace the old one already spanned."""
    return (p_old.float().mT @ p_new.float()).square().sum() / p_new.shape[1]
