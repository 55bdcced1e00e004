"""What the runs of a fine-tuning came to, read from their directories: each, and per task and method over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.history import History
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.glue.grid import Cell
from galore.trainer.sweep.glue.published import Published, published
from galore.trainer.tasks.glue import TASKS, Task
from galore.trainer.tasks.metrics import flat

Scores = Mapping[str, float]  # by metric; of a second split `metric_split`, such as accuracy_mismatched


@dataclass(frozen=True)
class Outcome:
    """One run. `status`: "done", "failed: <why>", or "not finished".

    `epochs`: the scores of every evaluation; `optimizer_bytes`: states and projectors, at most; `peak_bytes`: of the
    process on a CPU, handed out by the allocator on a GPU; `seconds`: in optimizer steps.
    """

    cell: Cell
    status: str
    epochs: tuple[Scores, ...]
    collapsed: str | None
    baseline: Scores
    optimizer_bytes: int
    peak_bytes: int
    seconds: float

    @property
    def last(self) -> Scores:
        return self.epochs[-1]

    @property
    def best(self) -> Scores:
        """The scores of the epoch with the highest headline."""
        return max(self.epochs, key=lambda scores: scores[TASKS[self.cell.task].headline])


def outcome(cell: Cell, root: Path, failure: str = "") -> Outcome:
    """The run of `cell` under `root` as it is now."""
    history = History.read(RunDir(root / cell.folder))
    scored = [row for row in history.evaluations if isinstance(row.get("scores"), dict)]
    done = "finished" in history.facts and bool(scored)
    return Outcome(
        cell,
        "done" if done else f"failed: {failure}" if failure else "not finished",
        tuple(flat(row["scores"]) for row in scored),
        scored[-1].get("collapsed") if scored else None,
        flat(history.facts.get("baseline") or {}),
        history.optimizer_bytes,
        int(max(history.train["memory_peak_bytes"], default=0)),
        history.total("step_seconds"),
    )


@dataclass(frozen=True)
class Standing:
    """A task by a method at one learning rate, over its seeds that are done."""

    task: Task
    label: str
    runs: tuple[Outcome, ...]

    @property
    def cell(self) -> Cell:
        return self.runs[0].cell

    @property
    def done(self) -> tuple[Outcome, ...]:
        return tuple(run for run in self.runs if run.status == "done")

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
        optim = self.cell.recipe.optim
        other = optim.adapter in ("relora", "factors") or optim.residual != "none" or optim.state_dtype == "8bit"
        if other or isinstance(optim.rank, float):
            return None
        return published(self.task.name, optim.method, None if optim.method == "full" else optim.rank)

    @property
    def differences(self) -> list[str]:
        """What keeps the paper's number from standing beside ours."""
        recipe = self.cell.recipe
        if self.published is None:
            return []
        found = self.published.setting.differences(setting(recipe))
        found += [f"{recipe.train.max_steps:,} steps"] if recipe.train.max_steps is not None else []
        return found + ([f"{recipe.data.max_train_samples:,} examples"] if recipe.data.max_train_samples else [])


def last(run: Outcome) -> Scores:
    """The scores after the last epoch: those of the model that is kept."""
    return run.last


def best(run: Outcome) -> Scores:
    """The scores after the best epoch, chosen by the very split it is scored on."""
    return run.best


def setting(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the paper has a word on, as `published.Setting` calls it."""
    epochs = {"epochs": recipe.train.num_train_epochs} if recipe.train.max_steps is None else {}
    return epochs | {
        "model": str(recipe.model.name_or_path).rpartition("/")[2],
        "max_length": recipe.data.max_length,
        "batch_size": recipe.train.global_batch_size,
        "lr_schedule": recipe.optim.lr_scheduler_type,
        "warmup_ratio": recipe.optim.warmup_ratio,
        "learning_rate": recipe.optim.learning_rate,
        "scale": recipe.optim.effective_scale,
    }


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """Every task × method at its best learning rate, in the order of `outcomes`."""
    groups: dict[tuple[str, str], dict[float, list[Outcome]]] = {}
    for each in outcomes:
        rates = groups.setdefault((each.cell.task, each.cell.label), {})
        rates.setdefault(each.cell.learning_rate, []).append(each)
    found = []
    for (task, label), rates in groups.items():
        tried = [Standing(TASKS[task], label, tuple(runs)) for runs in rates.values()]
        found.append(max(tried, key=lambda each: (len(each.done), each.score) if each.done else (0, 0.0)))
    return found
