"""Decompositions that may fail: LAPACK and cuSOLVER give up with an error, or give numbers that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]


class Basis(NamedTuple):
    """P (a, r) in fp32 with orthonormal columns, and whether the ordinary algorithm failed on the way to it."""

    p: Tensor
    fell_back: bool


def first_finite(*ways: Callable[[], Tensor]) -> Basis:
    """What the first of `ways` gives that ends in finite numbers and no error of linear algebra.

    Raises:
        LinAlgError: none does.
    """
    for number, way in enumerate(ways):
        try:
            found = way()
        except RuntimeError as error:
            if not _is_of_linear_algebra(error):
                raise
            continue
        if holds(torch.isfinite(found).all()):
            return Basis(found, number > 0)
    raise LinAlgError("no decomposition gives finite numbers")


def holds(condition: Tensor) -> bool:
    """The condition (), true on `meta`, where it has no value."""
    return condition.is_meta or bool(condition)


def _is_of_linear_algebra(error: RuntimeError) -> bool:
    """An error of convergence, or of cuSOLVER, which has no type of its own; never one of memory."""
    return isinstance(error, LinAlgError) or "cusolver" in str(error).lower()
