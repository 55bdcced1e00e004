"""What cuSOLVER's factorizations take: column-major copies, and work arrays whose sizes only the card's library tells.

After PyTorch's aten/src/ATen/native/BatchLinearAlgebra.cpp and cuda/linalg/BatchLinearAlgebraLib.cpp. The work arrays'
lower bounds are sizes that users of cuSOLVER reported; the upper bounds leave room for what newer versions took.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from galore.trainer.memory.workspaces.scratch import Gpu, Workspace, at, between, exact

INFO = 4  # bytes, per matrix
QR_LEAST = 196608  # elements: geqrf of even a 3×3 matrix (cuSOLVER 12, JAX's compatibility tests)


class Sizes(NamedTuple):
    """The sizes of a batch of matrices: rows, columns, the lesser of both, bytes per element, matrices."""

    m: int
    n: int
    k: int
    e: int
    batch: int


def _sizes(matrix: Tensor) -> Sizes:
    m, n = matrix.shape[-2:]
    return Sizes(m, n, min(m, n), matrix.element_size(), math.prod(matrix.shape[:-2]))


def qr(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """linalg_qr_out: tau, one work array at a time, and a copy where R alone is wanted (apply_geqrf, apply_orgqr).

    orgqr of m×n took about m·n elements (pytorch issue 134326).
    """
    m, n, k, e, batch = _sizes(args[0])
    copy = batch * m * n * e if at(args, 1, "reduced") == "r" and m > n else 0
    return exact(copy, batch * k * e, INFO * batch) + between(QR_LEAST * e, (QR_LEAST + m * k) * e)


def svd(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """svd_cusolver_gesvdj: a column-major copy, U and V even where only values are wanted, and the work array.

    gesvdj took 2k² + 143k + 4160 elements for k×k, k² more for a rectangle (CUDA.jl issues 1880 and 598), and 264 per
    row of a 2²⁰-row matrix (pytorch issue 155811). Its fallback gesvd, after 400 sweeps without convergence, is not
    counted.
    """
    m, n, k, e, batch = _sizes(args[0])
    vectors = 0 if at(args, 2, True) else batch * (m + n) * k * e
    work = (2 + (m != n)) * k * k + 143 * k + 4160
    return exact(batch * m * n * e, vectors, INFO * batch) + between(work * e, (work + 264 * max(m, n)) * e)


def eigh(gpu: Gpu, args: tuple[Any, ...], out: Any) -> list[Workspace]:
    """linalg_eigh_cusolver_syevd: the work array, and a copy of the matrix where only values are wanted.

    syevd took 3n² + 130n elements (CUDA.jl issue 2427); newer versions of torch may call XsyevBatched.
    """
    _, n, _, e, batch = _sizes(args[0])
    copy = 0 if at(args, 2, True) else batch * n * n * e
    return exact(copy, INFO * batch) + between((3 * n * n + 130 * n) * e, (4 * n * n + 256 * n) * e)
