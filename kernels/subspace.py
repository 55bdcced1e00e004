"""Orthonormal bases of a gradient's leading subspace, in fp32, with a fallback where a decomposition fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from galore.kernels.decompose import Basis, first_finite
from galore.kernels.device import generator_for, product
from galore.kernels.reference.operations import is_transposed, orient

Orthonormalize = Callable[[Tensor, int], Basis]


def svd_basis(grad: Tensor, rank: int, transposed: bool | None = None) -> Basis:
    """The `rank` leading singular vectors of grad (m, n) as `orient` sees it; by eigh in float64 where SVD fails.

    Takes the gradient as it is stored, not oriented: LAPACK chooses the vectors' signs by the layout it is given, and
    moments kept across refreshes depend on those signs.
    """
    grad = grad.float()
    transposed = is_transposed(grad.shape) if transposed is None else transposed

    def by_svd() -> Tensor:
        u, _, vh = torch.linalg.svd(grad, full_matrices=False)
        leading: Tensor = vh[:rank].mT if transposed else u[:, :rank]
        return leading.contiguous()

    def by_eigh() -> Tensor:
        g = orient(grad, transposed).double()
        vectors: Tensor = torch.linalg.eigh(g @ g.mT).eigenvectors
        return vectors.flip(-1)[:, :rank].float().contiguous()

    return first_finite(by_svd, by_eigh)


def range_basis(y: Tensor, rank: int) -> Basis:
    """An orthonormal basis of the sketch y = G Ω (a, r) by Householder QR, signs fixed so that diag(R) ≥ 0; in float64,
    from what is finite of y, where that fails.

    A fixed sign keeps the coordinates of a slowly turning subspace steady, which the kept moments rely on.
    """

    def in_float32() -> Tensor:
        q, r = torch.linalg.qr(y.float())
        signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0)
        signed: Tensor = q * signs
        return signed[:, :rank].contiguous()

    def in_float64() -> Tensor:
        finite = torch.nan_to_num(y.double(), nan=0.0, posinf=0.0, neginf=0.0)
        q: Tensor = torch.linalg.qr(finite).Q
        return q[:, :rank].float().contiguous()

    return first_finite(in_float32, in_float64)


def unit_columns(y: Tensor, rank: int) -> Basis:
    """The first `rank` columns of y (a, r) at unit length, not orthogonal: enough halfway through a power step in fp32
    from a basis that is nearly the leading one, where they nearly are.
    """
    y = y[:, :rank].float()
    return Basis(y / y.norm(dim=0).clamp_min(torch.finfo(torch.float32).tiny), False)


def power_basis(
    g: Tensor,
    start: Tensor,
    rank: int,
    *,
    side: Literal["left", "right"] = "left",
    steps: int = 1,
    halfway: Orthonormalize = range_basis,
) -> Basis:
    """Block power iteration P ← qr(G qr(Gᵀ P)) from a basis known before (Halko et al. 2011, algorithm 4.4, warm).

    Args:
        g: (a, b) oriented gradient; products take operands of its dtype, bases are found in fp32.
        start: side "left": P (a, r), say of an earlier gradient; side "right": Q (b, r), a kept row space or random
            numbers, from which the first step is half a step, P ← qr(G Q).
        steps: at least 1.
        halfway: what makes a basis of Gᵀ P; `unit_columns` saves this QR, the larger one.
    """
    p, q, fell_back = start, start, False
    for step in range(steps):
        if side == "left" or step > 0:
            q, failed = halfway(product(g.mT, p.to(g.dtype)), rank)
            fell_back |= failed
        p, failed = range_basis(product(g, q.to(g.dtype)), rank)
        fell_back |= failed
    return Basis(p, fell_back)


def randomized_basis(g: Tensor, rank: int, omega: Tensor, power_iterations: int = 2) -> Basis:
    """Randomized range finder on a whole gradient g (a, b) from omega (b, r) (Halko et al. 2011, algorithm 4.4)."""
    return power_basis(g, omega, rank, side="right", steps=1 + power_iterations)


def switched_basis(p: Tensor, g: Tensor, omega: Tensor) -> Basis:
    """A basis whose last vectors are drawn from the complement of the leading ones (Alice, arXiv 2502.07752).

    Args:
        p: (a, r) orthonormal; g: (a, k), the gradient or a sketch of it, which says what leads within p.
        omega: (a, r - l) Gaussian: what of it is not within the l leading vectors becomes the rest.
    """
    p, kept = p.float(), p.shape[1] - omega.shape[1]

    def found() -> Tensor:
        r = product(p.to(g.dtype).mT, g).float()
        r = r / r.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        leading = p @ torch.linalg.eigh(r @ r.mT).eigenvectors.flip(-1)[:, :kept]
        rest = omega.float() - leading @ (leading.mT @ omega.float())
        return range_basis(torch.cat([leading, rest], dim=1), p.shape[1]).p

    return first_finite(found)


_drawn: WeakValueDictionary[Any, Tensor] = WeakValueDictionary()


def gaussian(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """Ω (rows, columns) ~ N(0, 1), drawn from `seed` alone, of the dtype and on the device of `like`.

    All who ask for the same one while it is alive share it: do not write into it.
    """
    key = (rows, columns, seed, like.dtype, like.device)
    omega = _drawn.get(key)
    if omega is None:
        omega = like.new_empty(rows, columns).normal_() if like.is_meta else _normal(rows, columns, seed, like)
        _drawn[key] = omega
    return omega


def _normal(rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    generator = generator_for(like.device, seed)
    dtype = torch.float32 if generator.device.type == "cpu" else like.dtype  # rounded afterwards, or as it is drawn
    return torch.empty(rows, columns, dtype=dtype, device=generator.device).normal_(generator=generator).to(like)


def seeded_basis(rows: int, rank: int, seed: int, like: Tensor) -> Tensor:
    """P (rows, rank), drawn from `seed` alone and so never stored, of the dtype and on the device of `like`.

    Entries are N(0, 1/r), so that E‖Pᵀx‖² = ‖x‖² (APOLLO, arXiv 2412.05270, algorithm 1). Shared as in `gaussian`: do
    not write into it.
    """
    key = ("basis", rows, rank, seed, like.dtype, like.device)
    p = _drawn.get(key)
    if p is None:
        numbers = gaussian(rows, rank, seed, like.new_empty(0, dtype=torch.float32))
        p = (numbers / rank**0.5).to(like.dtype)
        _drawn[key] = p
    return p


def overlap(p_old: Tensor, p_new: Tensor) -> Tensor:
    """‖P_oldᵀ P_new‖²_F / r in [0, 1]: how much of the new subspace the old one already spanned."""
    return (p_old.float().mT @ p_new.float()).square().sum() / p_new.shape[1]
