"""Benchmark tasks by EleutherAI's evaluation harness, lm-eval, on a model that is loaded here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galore.trainer.checkpoint.checkpoint import Skipped
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.library import OUR_MISTAKES
from galore.trainer.common.suggest import nearest
from galore.trainer.machine.device import choose_threads
from galore.trainer.models.generate import require_generator
from galore.trainer.models.rope.rotary import follows_length
from galore.trainer.recipe.extras import require
from galore.trainer.trained.runmodel import load_run_model

PACKAGE = "lm_eval"


@dataclass(frozen=True)
class Asked:
    """What is asked of the harness, under its own names, and of which checkpoint of a run."""

    tasks: Sequence[str]
    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 1
    include_path: Path | None = None
    apply_chat_template: bool = False
    checkpoint: str | None = None


@dataclass(frozen=True)
class TaskScores:
    """Metrics by task, and what was scored; `versions` and `num_fewshot` as the harness reports them of each task."""

    results: dict[str, dict[str, float]]
    versions: dict[str, Any]
    num_fewshot: dict[str, Any]
    origin: str
    step: int | None
    skipped: tuple[Skipped, ...] = ()


def evaluate_tasks(path: str, asked: Asked, device: str = "cpu") -> TaskScores:
    """Score the model `path` (run directory, folder or hub name) on tasks of the harness.

    Raises:
        UserError: the package is missing, a task is unknown, or `path` is no model that continues text.
        RunFailed: the harness failed, as where the data of a task cannot be had.
    """
    harness = require(PACKAGE, "eval --tasks", "--tasks")
    tasks = require(f"{PACKAGE}.tasks", "eval --tasks", "--tasks")
    models = require(f"{PACKAGE}.models.huggingface", "eval --tasks", "--tasks")
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    manager = tasks.TaskManager(include_path=str(asked.include_path) if asked.include_path is not None else None)
    _require_known(asked, manager.all_tasks)
    stored = load_run_model(path, device, asked.checkpoint)
    require_generator(stored.model)
    if stored.recipe is not None:
        choose_threads(stored.recipe.train.num_threads)
    if asked.apply_chat_template and stored.tokenizer.chat_template is None:
        raise UserError("has no chat template to ask in", where=stored.origin, fix="leave --chat out")
    # requests of unlike lengths in one batch would rotate as the longest of them
    batch = 1 if follows_length(stored.model.config) else asked.batch_size
    try:
        model = models.HFLM(pretrained=stored.model, tokenizer=stored.tokenizer, backend="causal", batch_size=batch)
        found = harness.simple_evaluate(
            model=model,
            tasks=list(asked.tasks),
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
            task_manager=manager,
            apply_chat_template=asked.apply_chat_template,
            log_samples=False,
        )
    except Exception as error:  # the harness, its tasks and their data raise types of their own
        if isinstance(error, (UserError, *OUR_MISTAKES)):
            raise
        fix = "see whether the data of the tasks can be had: the network, or a filled cache of the hub"
        raise RunFailed(f"lm-eval failed: {type(error).__name__}: {error}", where="--tasks", fix=fix) from error
    results = {name: dict(_numbers(scores)) for name, scores in found["results"].items()}
    versions, shots = found.get("versions", {}), found.get("n-shot", {})
    return TaskScores(results, versions, shots, stored.origin, stored.step, stored.skipped)


def _require_known(asked: Asked, known: Sequence[str]) -> None:
    for name in asked.tasks:
        if name not in known:
            near = nearest(name, list(known))
            fix = f"did you mean {near[0]}?" if near else "`lm-eval ls tasks` lists them; --include-path adds your own"
            raise UserError("is no task of lm-eval", where=name, fix=fix)


def _numbers(scores: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """("acc,none", 0.25) becomes ("acc", 0.25): a filter is named where it is one."""
    for name, value in scores.items():
        metric, _, by = name.partition(",")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (metric if by in ("", "none") else name), float(value)
