"""When a layer's subspace is found anew: every `gap` steps, the layers spread over the gap or all together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 32  # gaps that a settled layer may go without a refresh


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

    def turn(self, step: int) -> int:
        """How many turns lie before update number `step` and begin with it, the start at step 0 not counted."""
        return 0 if step < self.offset else (step - self.offset) // self.gap + (self.offset > 0)


def schedules(gaps: list[int], stagger: bool) -> list[RefreshSchedule]:
    """One schedule per layer; with `stagger` the turns are spread evenly over each layer's gap."""
    count = len(gaps)
    return [RefreshSchedule(gap, index * gap // count if stagger else 0) for index, gap in enumerate(gaps)]


def may_skip(state: dict[str, Tensor], step: int) -> bool:
    """Whether a layer whose turn it is has found its subspace settled, see `settle`."""
    return "refresh" in state and step < int(state["refresh"][0])


def settle(state: dict[str, Tensor], step: int, gap: int, similar: bool) -> None:
    """Put off the refresh after the one at `step`: by twice as many turns if the subspace hardly changed, else by one.

    `state` gets `refresh`, int64 (2,): the step before which no turn is taken, and how many gaps were waited for.
    Q-GaLore (arXiv 2407.08296, section 3.2) lengthens intervals alike, and never shortens them.
    """
    gaps = min(LONGEST, 2 * int(state["refresh"][1])) if similar and "refresh" in state else 2 if similar else 1
    state["refresh"] = torch.tensor([step + gaps * gap, gaps], device="cpu")


def note_draw(state: dict[str, Tensor], schedule: RefreshSchedule, step: int) -> bool:
    """Note that `state` takes `step` on the basis drawn last; whether that is another than it is of.

    `refresh` (2,) says at which step its basis was drawn: a weight may have no gradient in that step. A state that does
    not say so is of the step before.
    """
    drawn, before = schedule.last_due(step), schedule.last_due(max(0, step - 1))
    known = int(state["refresh"][0]) if "refresh" in state else before
    state["refresh"] = torch.tensor([drawn, 1], device="cpu")
    return known != drawn
