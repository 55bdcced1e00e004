"""The learning rate by optimizer step: linear warm-up, then one of the table's shapes; ReLoRA's restarts.

A run may be given another length or shape where it keeps the rates of the steps that are done.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.common.format import learning_rate as rate_in_words
from galore.trainer.recipe.schema.optim import DecayType, OptimSection, ScheduleName
from galore.trainer.recipe.schema.recipe import Recipe, check_lasting

Shape = Callable[[OptimSection, int, int, int], float]  # step, steps of warm-up, all steps → share of the peak


def total_steps(recipe: Recipe, rows: int | None) -> int:
    """Optimizer steps of the whole run on `rows` sequences; None is a stream, which `train.max_steps` ends."""
    if recipe.train.max_steps is not None:
        return recipe.train.max_steps
    assert rows is not None
    assert recipe.train.num_train_epochs is not None
    steps = int(recipe.train.num_train_epochs * rows / recipe.train.global_batch_size)
    if steps < 1:
        raise UserError(
            f"{recipe.train.num_train_epochs:g} epochs of {counted(rows, 'sequence')} are less than one step",
            where="train.num_train_epochs",
            fix="set train.max_steps, or lower train.global_batch_size",
        )
    return steps


def refuse_outlasting(recipe: Recipe, total: int) -> None:
    """Raise UserError for stages and restarts that a run of `total` steps, as its epochs come to, has no room for."""
    try:
        check_lasting(recipe, total, "train.num_train_epochs")
    except ValueError as error:
        raise UserError(str(error), where="train.num_train_epochs") from None


def warmup_steps(optim: OptimSection, total_steps: int) -> int:
    """Optimizer steps of linear warm-up: `warmup_steps`, or `warmup_ratio` of all steps."""
    return optim.warmup_steps if optim.warmup_steps is not None else round(optim.warmup_ratio * total_steps)


def decay_steps(optim: OptimSection, total_steps: int) -> int:
    """Optimizer steps at the end of warmup_stable_decay in which the rate falls; none of them is of the warm-up."""
    asked = optim.lr_decay_steps if optim.lr_decay_steps is not None else round(optim.lr_decay_ratio * total_steps)
    return max(0, min(asked, total_steps - warmup_steps(optim, total_steps)))


def learning_rate(optim: OptimSection, step: int, total_steps: int, peak: float | None = None) -> float:
    """Learning rate of update number `step` (from 0) where its `peak` is that, or the recipe's.

    After a restart of ReLoRA's adapters it rises linearly from near 0, and meets the schedule again.
    """
    peak = optim.learning_rate if peak is None else peak
    return _scheduled(optim, peak, step, total_steps) * _risen(optim, step, total_steps)


def learning_rates(optim: OptimSection, step: int, total_steps: int) -> dict[str, float]:
    """Learning rates of update number `step` by the key of the recipe that has their peak."""
    return {key: learning_rate(optim, step, total_steps, peak) for key, peak in optim.peak_rates.items()}


def restart_gap(optim: OptimSection, total_steps: int) -> int | None:
    """Optimizer steps between two restarts of ReLoRA's adapters; None where nothing is ever restarted."""
    if optim.adapter != "relora":
        return None
    return optim.relora_gap if optim.relora_gap is not None else -(-total_steps // 4)


def restarts_after(optim: OptimSection, done: int, total_steps: int) -> bool:
    """Whether adapters are merged and restarted once `done` steps are done; not at the end, where nothing follows."""
    gap = restart_gap(optim, total_steps)
    return gap is not None and done % gap == 0 and 0 < done < total_steps


def refuse_other_rates(
    before: tuple[OptimSection, int], after: tuple[OptimSection, int], done: int, where: str
) -> None:
    """Raise UserError, with a remedy, if one of `done` steps, taken `before`, has another rate or restart `after`.

    Args:
        before: section `optim` and number of all steps, as `after`.
    """
    optim, total = after
    if done > total:
        raise UserError(
            f"the run has done {counted(done, 'step')}, and {total:,} are asked for",
            where=where,
            fix=f"set train.max_steps to {done} or more",
        )
    if before == after or (step := _first_other(before, after, done)) is None:
        return
    lengths = {"warmup_steps": warmup_steps(*before), "relora_gap": restart_gap(*before)}
    changes = [{name: lengths[name]} for name in lengths] + [lengths]
    kept = (each for each in changes if _first_other(before, (optim.model_copy(update=each), total), done) is None)
    remedy = " ".join(f"optim.{name}={value}" for name, value in next(kept, {}).items())
    rates = [learning_rate(each[0], step, each[1]) for each in (before, after)]
    had, has = map(rate_in_words, rates)
    if had == has:
        had, has = (f"{rate:.9e}" for rate in rates)
    what = f"would have had other learning rates: step {step + 1} had {had}, and has {has}"
    if learning_rate(before[0], step, before[1]) == learning_rate(optim, step, total):
        what = f"would have had their adapters restarted at other places, after step {step + 1} or not"
    raise UserError(
        f"the {counted(done, 'step')} that are done {what} in {counted(total, 'step')} of {optim.lr_scheduler_type}",
        where=where,
        fix=f"add {remedy}, as it was before" if remedy else _no_way_on(before, done),
    )


def _first_other(before: tuple[OptimSection, int], after: tuple[OptimSection, int], done: int) -> int | None:
    """The first of `done` updates, from 0, that has another rate, or that a restart follows in one of them only."""
    (was, total), (now, new_total) = before, after
    for step in range(done):
        same_rate = learning_rate(was, step, total) == learning_rate(now, step, new_total)
        if not same_rate or restarts_after(was, step + 1, total) != restarts_after(now, step + 1, new_total):
            return step
    return None


def _no_way_on(before: tuple[OptimSection, int], done: int) -> str:
    optim, total = before
    anew = "this one goes on from its model: galore export RUN OUT, and model.name_or_path: OUT in a recipe"
    if optim.lr_scheduler_type == "warmup_stable_decay":
        return f"a run goes on until its decay begins, here after step {total - decay_steps(optim, total):,}; {anew}"
    laid_out = f"{optim.lr_scheduler_type} was laid out for {counted(total, 'step')}"
    if optim.adapter == "relora":  # whose restarts are laid out, too, whatever the shape
        return f"{laid_out}; {anew}"
    return f"{laid_out}; a new run with optim.lr_scheduler_type=warmup_stable_decay could be prolonged; {anew}"


def _risen(optim: OptimSection, step: int, total_steps: int) -> float:
    """Share of the scheduled rate that update number `step` has come back to since the last restart."""
    gap = restart_gap(optim, total_steps)
    if gap is None or step < gap:
        return 1.0
    warmup = optim.relora_warmup_steps if optim.relora_warmup_steps is not None else gap // 10
    return min(1.0, (step % gap + 1) / max(1, warmup))


def _scheduled(optim: OptimSection, peak: float, step: int, total_steps: int) -> float:
    warmup = warmup_steps(optim, total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SHAPES[optim.lr_scheduler_type](optim, step, warmup, total_steps)


def _falling(shape: Callable[[OptimSection, float], float]) -> Shape:
    """A shape that falls from the peak to `min_lr_ratio` of it over the steps after warm-up."""

    def share(optim: OptimSection, step: int, warmup: int, total: int) -> float:
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return _above_floor(optim, shape(optim, progress))

    return share


def _warmup_stable_decay(optim: OptimSection, step: int, warmup: int, total: int) -> float:
    decay = decay_steps(optim, total)
    progress = min(1.0, (step - (total - decay)) / max(1, decay))
    return 1.0 if progress <= 0 else _above_floor(optim, DECAYS[optim.lr_decay_type or "cosine"](progress))


def _inverse_sqrt(optim: OptimSection, step: int, warmup: int, total: int) -> float:
    timescale = warmup or 10_000
    return 1.0 / math.sqrt((step + timescale - warmup) / timescale)


def _above_floor(optim: OptimSection, share: float) -> float:
    return optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * share


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _restarted(optim: OptimSection, progress: float) -> float:
    return _cosine((optim.lr_num_cycles or 1) * progress % 1.0) if progress < 1 else 0.0


# What the last steps of warmup_stable_decay may look like, from 1 to 0.
DECAYS: dict[DecayType, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda progress: 1.0 - progress,
    "1-sqrt": lambda progress: 1.0 - math.sqrt(progress),
}
# Share of the peak at a step after warm-up, under the names and as the formulas of transformers.get_scheduler.
SHAPES: dict[ScheduleName, Shape] = {
    "cosine": _falling(lambda _, progress: _cosine(progress)),
    "linear": _falling(lambda _, progress: 1.0 - progress),
    "constant": lambda optim, step, warmup, total: 1.0,
    "constant_with_warmup": lambda optim, step, warmup, total: 1.0,
    "warmup_stable_decay": _warmup_stable_decay,
    "cosine_with_restarts": _falling(_restarted),
    "polynomial": _falling(lambda optim, progress: (1.0 - progress) ** (optim.lr_power or 1.0)),
    "inverse_sqrt": _inverse_sqrt,
}
