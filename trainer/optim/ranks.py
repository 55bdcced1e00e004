"""Processes that train one model together: what the optimizer asks of them, and what it lets them sum.

All ranks hold the same P, so Σ PᵀGᵢ = Pᵀ ΣGᵢ: what is summed over ranks is R (r×b), never G (m×n), unless a method
needs the whole gradient. Sums are the same bits on every rank, and with them everything that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

HELD = torch.float32.itemsize  # bytes that say whether a rank has something
BUCKET_BYTES = 25 * 2**20  # sums that are sent together

Owner = TypeVar("Owner")


class Ranks(Protocol):
    """A group of processes. Every call is made by all of them, in the same order, with tensors of the same shapes."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to replace a contiguous tensor by its sum over the ranks; what is returned waits for that."""

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is set on any rank."""

    def total(self, number: float) -> float:
        """The sum of a number over the ranks."""

    def are_equal(self, number: float) -> bool:
        """Whether all ranks have the same bits."""


@dataclass(frozen=True)
class Rehearsed:
    """Ranks without any others: an optimizer makes with them what it makes among `size`, and nothing is sent."""

    size: int
    rank: int = 0

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        return lambda: None

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """The tensors stay as they are."""

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)

    def total(self, number: float) -> float:
        return number

    def are_equal(self, number: float) -> bool:
        return True


class Total(Protocol):
    """A sum of gradients, None before the first."""

    dtype: torch.dtype
    value: Tensor | None


class Packed(Protocol):
    """Anything of a sum that is sent beside others of its dtype."""

    @property
    def total(self) -> Total: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """A sum of one parameter's gradients, and the shape it has where there is any."""

    total: Total
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.total.dtype.itemsize


AnyPacked = TypeVar("AnyPacked", bound=Packed)


class Sums(Generic[Owner]):
    """The sums of one step on their way over the ranks, in buckets, each sent as soon as all that it holds is final.

    Buckets and their order depend on nothing but the parts, which are the same on all ranks: whatever order gradients
    come in, and whoever has none of a parameter, all ranks begin the same collectives one after the other. What one of
    them does not have counts as zeros there; what none has stays absent.
    """

    def __init__(self, ranks: Ranks, parts: Mapping[Owner, Sequence[Part]], device: torch.device) -> None:
        self.ranks, self.parts, self.device = ranks, parts, device
        self.buckets = list(buckets([part for each in parts.values() for part in each]))
        # Of each bucket how many parts are not final yet, and of each owner which buckets wait for it.
        self.missing = [len(bucket) for bucket in self.buckets]
        owners = iter([owner for owner, each in parts.items() for _ in each])
        self.awaited: dict[Owner, list[int]] = {owner: [] for owner in parts}
        for number, bucket in enumerate(self.buckets):
            for _ in bucket:
                self.awaited[next(owners)].append(number)
        self.waits: list[Callable[[], None]] = []

    def final(self, owner: Owner) -> None:
        """Take note that this rank adds nothing more to what `owner` sums, and send what became whole by it.

        Raises:
            RuntimeError: it was final already.
        """
        if owner not in self.awaited:
            raise RuntimeError("a parameter got a second gradient in the last backward of a step: it was sent already")
        for number in self.awaited.pop(owner):
            self.missing[number] -= 1
        while len(self.waits) < len(self.buckets) and not self.missing[len(self.waits)]:
            self._send()

    def finish(self) -> None:
        """Send what was not sent, and wait for all of it."""
        held = [any(part.total.value is not None for part in each) for each in self.parts.values()]
        while len(self.waits) < len(self.buckets):
            self._send()
        found = self.ranks.any_of(held)
        for wait in self.waits:
            wait()
        for each, anywhere in zip(self.parts.values(), found, strict=True):
            for part in each if not anywhere else ():
                part.total.value = None

    def _send(self) -> None:
        """Begin the sum of the next bucket. Its parts become views of what is sent: they are held once."""
        bucket = self.buckets[len(self.waits)]
        flat = _whole(bucket[0], self.device).view(-1)
        if len(bucket) > 1:
            flat = torch.cat([_whole(part, self.device).view(-1) for part in bucket])
            sizes = [torch.Size(part.shape).numel() for part in bucket]
            for part, own in zip(bucket, torch.split(flat, sizes), strict=True):
                part.total.value = own.view(part.shape)
        self.waits.append(self.ranks.start_sum(flat))


def buckets(parts: Sequence[AnyPacked]) -> Iterator[list[AnyPacked]]:
    """The parts in their order, neighbours of one dtype together up to BUCKET_BYTES; a larger one by itself."""
    found, size = list[AnyPacked](), 0
    for part in parts:
        if found and (found[0].total.dtype != part.total.dtype or size + part.nbytes > BUCKET_BYTES):
            yield found
            found, size = [], 0
        found.append(part)
        size += part.nbytes
    if found:
        yield found


def _whole(part: Part, device: torch.device) -> Tensor:
    total = part.total
    if total.value is None:
        total.value = torch.zeros(part.shape, dtype=total.dtype, device=device)
    total.value = total.value.to(total.dtype).contiguous()
    return total.value
