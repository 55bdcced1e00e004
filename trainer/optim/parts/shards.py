"""Parameters of which every rank holds a part: which part that is, and what of a sum over the ranks belongs to it.

A projected weight is cut along the side that is not projected. R = PᵀG then falls into the columns of the ranks, and
with it the moments: each rank gets its own columns of Σ PᵀGᵢ, steps them, and lifts P N into its part of the weight.
P is whole everywhere, the same bits; no gradient m×n and no direction N is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from galore.trainer.optim.ranks import Ranks, Total, buckets


class Sharing(Ranks, Protocol):
    """Processes that hold parts of the parameters."""

    def scatter_sum(self, rows: Tensor) -> Tensor:
        """This rank's row (k,) of the sum of `rows` (size, k) over the ranks."""

    def joined(self, own: Tensor) -> Tensor:
        """Every rank's `own` (k,), as (size, k)."""


@dataclass(frozen=True)
class Shard:
    """The part of a tensor that rank `rank` of `size` holds: as many of `length` along `dim` as any other, the last
    ranks fewer."""

    dim: int
    length: int
    rank: int
    size: int

    @property
    def chunk(self) -> int:
        """How many the first rank holds."""
        return -(-self.length // self.size)

    @property
    def start(self) -> int:
        return min(self.rank * self.chunk, self.length)

    @property
    def stop(self) -> int:
        return min(self.start + self.chunk, self.length)

    def of(self, whole: Tensor) -> Tensor:
        """This rank's part, a view."""
        return whole.narrow(self.dim, self.start, self.stop - self.start)

    def at(self, rank: int) -> Shard:
        """The part of another rank."""
        return Shard(self.dim, self.length, rank, self.size)

    def along(self, dim: int, length: int) -> Shard:
        """The same part of a tensor that has `length` along `dim` for the `length` here: a multiple."""
        return Shard(dim, length, self.rank, self.size)

    def join(self, ranks: Sharing, own: Tensor) -> Tensor:
        """The whole, of every rank's `own` part, whatever its dtype."""
        shape = [*own.shape]
        shape[self.dim] = self.chunk
        padded = own.new_zeros(shape)
        padded.narrow(self.dim, 0, own.shape[self.dim]).copy_(own)
        every = ranks.joined(padded.view(-1).view(torch.uint8)).view(own.dtype)
        parts = [
            part.view(shape).narrow(self.dim, 0, self.at(rank).stop - self.at(rank).start)
            for rank, part in enumerate(every)
        ]
        return torch.cat(parts, self.dim)


@dataclass(frozen=True)
class Spread:
    """A sum R (r, b) of which each rank keeps its own columns."""

    total: Total
    shape: tuple[int, int]
    columns: Shard

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.total.dtype.itemsize


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it: the tensor itself, unless it is sharded."""
    held: Tensor = getattr(tensor.data, "_local_tensor", tensor.data)
    return held


def shard_of(parameter: Tensor) -> Shard | None:
    """Which part of a parameter is here; None for one that is here whole."""
    placements = getattr(parameter, "placements", None)
    if placements is None:
        return None
    mesh, dim = parameter.device_mesh, placements[0].dim  # type: ignore[attr-defined]
    return Shard(dim, parameter.shape[dim], mesh.get_local_rank(), mesh.size())


def scatter(ranks: Sharing, parts: Sequence[Spread], device: torch.device) -> None:
    """Replace each sum by this rank's columns of it over the ranks. What none has stays absent."""
    anywhere = ranks.any_of([part.total.value is not None for part in parts])
    held = [part for part, found in zip(parts, anywhere, strict=True) if found]
    for bucket in buckets(held):
        own = ranks.scatter_sum(torch.cat([_rows(part, device) for part in bucket], 1))
        start = 0
        for part in bucket:
            rows, columns = part.shape[0], part.columns
            cut = own[start : start + rows * columns.chunk].view(rows, columns.chunk)
            part.total.value = cut[:, : columns.stop - columns.start].contiguous()
            start += rows * columns.chunk


def _rows(part: Spread, device: torch.device) -> Tensor:
    """(size, r · chunk): what each rank is to have, zeros after the last column. The sum itself is given up."""
    (r, b), columns, total = part.shape, part.columns, part.total
    padded = torch.zeros(r, columns.chunk * columns.size, dtype=total.dtype, device=device)
    if total.value is not None:
        padded[:, :b] = total.value
    total.value = None
    return padded.view(r, columns.size, columns.chunk).transpose(0, 1).reshape(columns.size, -1)
