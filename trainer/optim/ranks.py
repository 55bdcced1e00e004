"""Processes that train one model together: what the optimizer asks of them, and what it lets them sum.

All ranks hold the same P, so Σ PᵀGᵢ = Pᵀ ΣGᵢ: what is summed over ranks is R (r×b), never G (m×n), unless a method
needs the whole gradient. Sums are the same bits on every rank, and with them everything that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

HELD = torch.float32.itemsize  # bytes that say whether a rank has something


class Ranks(Protocol):
    """A group of processes. Every call is made by all of them, in the same order, with tensors of the same shapes."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""

    def total(self, number: float) -> float:
        """The sum of a number over the ranks."""

    def are_equal(self, number: float) -> bool:
        """Whether all ranks have the same bits."""


class Holder(Protocol):
    """What has a sum."""

    @property
    def total(self) -> Total: ...


class Total(Protocol):
    """A sum of gradients, None before the first."""

    dtype: torch.dtype
    value: Tensor | None


@dataclass(frozen=True)
class Part:
    """A sum of one parameter's gradients, and the shape it has where there is any."""

    total: Total
    shape: tuple[int, ...]


def share(ranks: Ranks, parts: Sequence[Part], device: torch.device) -> None:
    """Sum each part over the ranks. What some do not have counts as zeros there; what none has stays absent."""
    held = held_by(ranks, parts, device)
    ranks.sum_([_whole(part, device) for part, count in zip(parts, held, strict=True) if count])


def held_by(ranks: Ranks, parts: Sequence[Holder], device: torch.device) -> list[float]:
    """How many of the ranks have each sum."""
    held = torch.tensor([float(part.total.value is not None) for part in parts], dtype=torch.float32, device=device)
    ranks.sum_([held])
    return held.tolist()


def _whole(part: Part, device: torch.device) -> Tensor:
    total = part.total
    if total.value is None:
        total.value = torch.zeros(part.shape, dtype=total.dtype, device=device)
    total.value = total.value.to(total.dtype).contiguous()
    return total.value
