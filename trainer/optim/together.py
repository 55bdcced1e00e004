"""What the optimizers of several ranks do together in a step: sums, one norm, and the check that they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from galore.trainer.optim.parts.modes import FirstMicroBatch
from galore.trainer.optim.parts.refresh import Refresh
from galore.trainer.optim.parts.shards import Sharing, scatter
from galore.trainer.optim.parts.storage import CODES
from galore.trainer.optim.ranks import Ranks, Sums
from galore.trainer.optim.slot import FullSlot


class Together:
    """One rank's side of it; without `ranks` there is nobody to do anything with.

    Attributes:
        sharded: whether each rank holds a part of the weights alone.
    """

    def __init__(self, ranks: Ranks | None, slots: Mapping[nn.Parameter, FullSlot]) -> None:
        self.ranks, self.slots = ranks, slots
        self.sharded = any(slot.weight.shard is not None for slot in slots.values())
        self._sums: Sums[FullSlot] | None = None  # of the step, from its last backward on
        self._bases = 0.0  # of the values of bases found so far, which all ranks hold alike

    def expect_last(self) -> None:
        """Begin the sums before the step's last backward, which fills them.

        Not where ranks hold parts of the weights: that backward gathers weights, in an order of its own.
        """
        if self.ranks is not None and not self.sharded:
            self._sums = self._begin(self.ranks)

    def final(self, slot: FullSlot) -> None:
        """Take note that the last backward has come to the gradient of `slot`."""
        if self._sums is not None:
            self._sums.final(slot)

    def sum_gradients(self) -> None:
        """Let every slot have what all ranks have accumulated, or its own columns of it."""
        if self.ranks is None:
            return
        (self._sums or self._begin(self.ranks)).finish()
        spread = [part for slot in self.slots.values() for part in slot.spread()]
        if spread:
            sharing: Sharing = self.ranks  # type: ignore[assignment]
            scatter(sharing, spread, _device(self.slots))

    def share_pass(self, passing: Sequence[Refresh]) -> None:
        """Let all ranks have what a pass of their own has found: sketches summed, bases of the first rank copied."""
        if self.ranks is None:
            return
        firsts = [each for each in passing if isinstance(each, FirstMicroBatch)]
        sketching = {each: list(each.sketched()) for each in passing if not isinstance(each, FirstMicroBatch)}
        Sums(self.ranks, sketching, _device(self.slots)).finish()
        found = self.ranks.any_of([each.basis is not None for each in firsts])
        for each, there in zip(firsts, found, strict=True):
            if there:
                self.ranks.copy_first_(each.copied())

    def total(self, number: float) -> float:
        """A number of which each rank has a part, where weights lie in parts."""
        return self.ranks.total(number) if self.ranks is not None and self.sharded else number

    def note_basis(self, slot: FullSlot) -> None:
        """Take note of a basis that `slot` has found."""
        if self.sharded:
            bases = (each for name, each in slot.state.items() if name.startswith(CODES))
            self._bases += sum(float(each.double().sum()) for each in bases)

    def require_equal(self, norm: float) -> None:
        """Raise RuntimeError where ranks differ: in the norm, or in bases where the norm is one sum for all."""
        if self.ranks is not None and not self.ranks.are_equal(self._bases if self.sharded else norm):
            raise RuntimeError(
                f"the ranks have drifted apart: the gradient's norm is {norm!r} on rank {self.ranks.rank}"
            )

    def forget(self) -> None:
        """Give up the sums of the step."""
        self._sums = None

    def _begin(self, ranks: Ranks) -> Sums[FullSlot]:
        """The sums of this step: what a backward fills first, and at the end weights in codes, which have no hook."""
        slots = sorted(self.slots.values(), key=lambda s: (s.parameter.requires_grad, s.weight.index), reverse=True)
        return Sums(ranks, {slot: list(slot.parts()) for slot in slots}, _device(self.slots))


def _device(slots: Mapping[nn.Parameter, FullSlot]) -> torch.device:
    return next(iter(slots)).device
