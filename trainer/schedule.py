"""The learning rate by optimizer step: linear warm-up, then cosine, linear or constant; ReLoRA's restarts."""

from __future__ import annotations

import math

from galore.trainer.recipe.schema.optim import OptimSection


def warmup_steps(optim: OptimSection, total_steps: int) -> int:
    """Optimizer steps of linear warm-up: `warmup_steps`, or `warmup_ratio` of all steps."""
    return optim.warmup_steps if optim.warmup_steps is not None else round(optim.warmup_ratio * total_steps)


def learning_rate(optim: OptimSection, step: int, total_steps: int) -> float:
    """Learning rate of update number `step` (from 0); it ends at `min_lr_ratio` of the peak.

    After a restart of ReLoRA's adapters it rises linearly from near 0, and meets the schedule again.
    """
    return _scheduled(optim, step, total_steps) * _risen(optim, step, total_steps)


def restart_gap(optim: OptimSection, total_steps: int) -> int | None:
    """Optimizer steps between two restarts of ReLoRA's adapters; None where nothing is ever restarted."""
    if optim.adapter != "relora":
        return None
    return optim.relora_gap if optim.relora_gap is not None else -(-total_steps // 4)


def restarts_after(optim: OptimSection, done: int, total_steps: int) -> bool:
    """Whether adapters are merged and restarted once `done` steps are done; not at the end, where nothing follows."""
    gap = restart_gap(optim, total_steps)
    return gap is not None and done % gap == 0 and 0 < done < total_steps


def _risen(optim: OptimSection, step: int, total_steps: int) -> float:
    """Share of the scheduled rate that update number `step` has come back to since the last restart."""
    gap = restart_gap(optim, total_steps)
    if gap is None or step < gap:
        return 1.0
    warmup = optim.relora_warmup_steps if optim.relora_warmup_steps is not None else gap // 10
    return min(1.0, (step % gap + 1) / max(1, warmup))


def _scheduled(optim: OptimSection, step: int, total_steps: int) -> float:
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
