"""What a step did, for those who train and for those who watch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """What the last `step()` did.

    Args:
        grad_norm: global norm before clipping of what was applied, or of what was not since it is nan or inf.
        grad_scale: the clip factor.
        refreshed: layers that took a new subspace.
        fallbacks: decompositions that failed, for which something else was taken.
        skipped: whether a gradient that is not finite was left out. Then no weight has moved, nor the clock; only with
            `update="immediate"` a step may be partial:
        refused: parameters that kept their weight and state in it, while all others moved.
    """

    grad_norm: float
    grad_scale: float
    refreshed: int
    fallbacks: int
    skipped: bool
    refused: int = 0


@dataclass
class Tally:
    """What was applied since the last step: parameters, their Σ ‖gradient‖², layers refreshed; gradients refused."""

    applied: int = 0
    squares: float = 0.0
    refreshed: int = 0
    refused: int = 0
