"""When a layer's subspace is found anew: every `gap` steps, the layers spread over the gap or all together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RefreshSchedule:
    """The clock of one projected layer; all layers refresh at step 0.

    Args:
        gap: optimizer steps between two refreshes (T).
        offset: this layer's turn within the gap, 0 ≤ offset < gap.
    """

    gap: int
    offset: int = 0

    def due(self, step: int) -> bool:
        """Whether the update number `step` (from 0) refreshes the subspace."""
        return step == 0 or (step >= self.offset and (step - self.offset) % self.gap == 0)

    def last_due(self, step: int) -> int:
        """The latest update up to number `step` that refreshed the subspace."""
        return step - (step - self.offset) % self.gap if step >= self.offset else 0


def schedules(gaps: list[int], stagger: bool) -> list[RefreshSchedule]:
    """One schedule per layer; with `stagger` the turns are spread evenly over each layer's gap."""
    count = len(gaps)
    return [RefreshSchedule(gap, index * gap // count if stagger else 0) for index, gap in enumerate(gaps)]
