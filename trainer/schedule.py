"""The learning rate as a function of the optimizer step: linear warm-up, then cosine, linear or constant."""

from __future__ import annotations

import math

from galore.trainer.recipe.optim_section import OptimSection


def warmup_steps(optim: OptimSection, total_steps: int) -> int:
    """Optimizer steps of linear warm-up: `warmup_steps`, or `warmup_ratio` of all steps."""
    return optim.warmup_steps if optim.warmup_steps is not None else round(optim.warmup_ratio * total_steps)


def learning_rate(optim: OptimSection, step: int, total_steps: int) -> float:
    """Learning rate of update number `step` (from 0); it ends at `min_lr_ratio` of the peak."""
    warmup = warmup_steps(optim, total_steps)
    if step < warmup:
        return optim.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return optim.learning_rate * _shape(optim.lr_scheduler_type, progress, optim.min_lr_ratio)


def _shape(kind: str, progress: float, floor: float) -> float:
    """Share of the peak after `progress` (0 to 1) of the decay."""
    if kind == "constant":
        return 1.0
    decay = 0.5 * (1 + math.cos(math.pi * progress)) if kind == "cosine" else 1.0 - progress
    return floor + (1.0 - floor) * decay
