"""How the methods stand on each task: scores over the seeds, at the best learning rate, beside what is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.sweep.glue.grid import task_of
from galore.trainer.sweep.glue.published import Published, published
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import OWN, Outcome, Scores, Standing, differing, grouped
from galore.trainer.tasks.glue import TASKS, Task


@dataclass(frozen=True)
class Scored(Standing):
    """A task by a method at one learning rate, over its seeds that are done."""

    @property
    def task(self) -> Task:
        return TASKS[task_of(self.trial)]

    @property
    def failure(self) -> str:
        """Why there is nothing to show."""
        return next((run.status for run in self.runs if run.status.startswith("failed")), "not finished")

    def spread(self, metric: str, of: Callable[[Outcome], Scores]) -> dict[str, float]:
        """Median, least and most over the seeds."""
        values = [of(run)[metric] for run in self.done]
        return {"median": median(values), "min": min(values), "max": max(values)}

    @property
    def score(self) -> float:
        """Median of the headline after the last epoch."""
        return self.spread(self.task.headline, last)["median"]

    @cached_property
    def published(self) -> Published | None:
        """The paper's number for this task, method and rank, whatever else differs."""
        optim = self.trial.recipe.optim
        other = optim.adapter in ("relora", "factors") or optim.residual != "none" or optim.inner != "adamw"
        other = other or optim.state_dtype == "8bit" or optim.proj_type in ("dct", "random")
        if other or optim.projector_dtype in ("int8", "int4") or isinstance(optim.rank, float):
            return None
        return published(self.task.name, optim.method, None if optim.method == "full" else optim.rank)

    @property
    def differences(self) -> list[str]:
        """What keeps the paper's number from standing beside ours."""
        recipe = self.trial.recipe
        if self.published is None:
            return []
        found = self.published.setting.differences(setting(recipe))
        own = recipe.optim.peak_rates
        found += [f"{name.replace('_', ' ')} {rate:g}" for name, rate in own.items() if name != "learning_rate"]
        found += [f"{recipe.train.max_steps:,} steps"] if recipe.train.max_steps is not None else []
        ends = dict.fromkeys(run.stopped_early for run in self.done if run.stopped_early is not None)
        found += [f"stopped early after step {step:,}" for step in ends]
        return found + ([f"{recipe.data.max_train_samples:,} examples"] if recipe.data.max_train_samples else [])


def last(run: Outcome) -> Scores:
    """Scores after the last epoch, those of the model that is kept."""
    return run.epochs[-1]


def best(run: Outcome) -> Scores:
    """Scores after the epoch with the highest headline, chosen by the very split it is scored on."""
    return max(run.epochs, key=lambda scores: scores[TASKS[task_of(run.trial)].headline])


def setting(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the paper has a word on, as `published.Setting` calls it."""
    optim = recipe.optim
    epochs = {"epochs": recipe.train.num_train_epochs} if recipe.train.max_steps is None else {}
    warmup = "warmup_ratio" if optim.warmup_steps is None else "warmup_steps"
    return epochs | {
        "model": str(recipe.model.name_or_path).rpartition("/")[2],
        "max_length": recipe.data.max_length,
        "batch_size": recipe.train.global_batch_size,
        "lr_schedule": optim.lr_scheduler_type,
        "min_lr_ratio": optim.min_lr_ratio,
        warmup: getattr(optim, warmup),
        "learning_rate": optim.learning_rate,
        "scale": optim.effective_scale,
    }


def standings(outcomes: Sequence[Outcome]) -> list[Scored]:
    """Every task × method at its best learning rate, task by task, in the order of `outcomes`."""
    found = list[Scored]()
    for runs in grouped(outcomes, lambda trial: (task_of(trial), trial.label)):
        tried = [Scored(own) for own in grouped(runs, lambda trial: trial.learning_rate)]
        found.append(max(tried, key=lambda each: (len(each.done), each.score) if each.done else (0, 0.0)))
    tasks = list(dict.fromkeys(each.task.name for each in found))
    return sorted(found, key=lambda each: tasks.index(each.task.name))


def differences(trial: Trial, among: Sequence[Trial]) -> list[str]:
    """What keeps `trial` from others of its task: another model or other data; in one method any setting."""
    task = [each for each in among if task_of(each) == task_of(trial)]
    same = next((each for each in task if each.label == trial.label), None)
    if same is not None:
        return differing(trial.recipe, same.recipe, OWN.__contains__)
    others = [each.recipe for each in task]
    return differing(trial.recipe, others[0], lambda key: not key.startswith(("model.", "data."))) if others else []
