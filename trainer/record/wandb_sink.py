"""The metrics at Weights & Biases too, when the recipe asks for it. Whatever happens there never stops a run."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import read_bounded
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import LogSection
from galore.trainer.record.metrics import Sink
from galore.trainer.record.row import Row
from galore.trainer.record.rundir import RunDir

# Only what the recipe and the metrics say leaves the machine by our hand: no terminal output, no code, no git remote.
PRIVATE = {"console": "off", "silent": True, "disable_git": True, "disable_code": True, "save_code": False}


def make_sink(recipe: Recipe, run_dir: RunDir, warn: Callable[[str], None] = print) -> Sink | None:
    """The sink that `log.report_to` names, or None. A resumed run goes on under the id kept in its directory.

    Args:
        warn: told where it is recorded, at the end how to send what was recorded offline, and once if Weights & Biases
            fails while the run goes on.

    Raises:
        UserError: wandb is not installed, or refuses to begin (no login, no network).
    """
    if recipe.log.report_to == "none":
        return None
    wandb = require("wandb", "report_to: wandb", "log.report_to", "set log.report_to: none")
    run = _begin(wandb, recipe, run_dir)
    if recipe.log.wandb_mode == "online":
        warn(f"wandb records at {run.url}")
        return WandbSink(run, warn)
    folder = Path(run.dir).parent
    warn(f"wandb records offline in {folder}")
    return WandbSink(run, warn, f"wandb recorded offline: `wandb sync {shlex.quote(str(folder))}` sends it")


class WandbSink:
    """Sends rows under `train/…` and `eval/…` over their own step; after the first failure it is silent."""

    def __init__(self, run: Any, warn: Callable[[str], None], at_the_end: str = "") -> None:
        self._run, self._warn, self._alive, self._at_the_end = run, warn, True, at_the_end

    def log(self, row: Row) -> None:
        if row.get("kind") in ("train", "eval"):
            numbers = {name: value for name, value in flatten(row) if value is not None}
            self._try(lambda: self._run.log({"step": row["step"], **numbers}))

    def close(self) -> None:
        self._try(self._run.finish)
        if self._at_the_end:
            self._warn(self._at_the_end)

    def _try(self, action: Callable[[], object]) -> None:
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # whatever a network service can think of
            self._alive = False
            self._warn(f"wandb stopped working ({error}); the run goes on, metrics.jsonl has everything")


def flatten(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """("train/loss_nats", 2.5), ("train/memory_by_category_bytes/weights", 1024) …"""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{row['kind']}/{name}/{inner}", number) for inner, number in value.items())
        elif name not in ("kind", "step"):
            yield f"{row['kind']}/{name}", value


def _begin(wandb: Any, recipe: Recipe, run_dir: RunDir) -> Any:
    log = recipe.log
    try:
        run = wandb.init(
            project=log.wandb_project,
            name=log.run_name or run_dir.root.resolve().name,
            id=_identity(run_dir),
            resume="allow",
            mode=log.wandb_mode,
            dir=str(run_dir.root),
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(**PRIVATE),
        )
        run.define_metric("*", step_metric="step")
    except Exception as error:
        raise UserError(f"wandb does not start: {error}", where="log.report_to", fix=_remedy(log)) from error
    return run


def _remedy(log: LogSection) -> str:
    if log.wandb_mode == "online":
        return "set WANDB_API_KEY, or log.wandb_mode: offline and `wandb sync` later"
    return "set log.report_to: none"


def _identity(run_dir: RunDir) -> str:
    """The run's id, made once and kept."""
    if run_dir.wandb.is_file():
        return str(json.loads(read_bounded(run_dir.wandb))["id"])
    identity = uuid.uuid4().hex[:12]
    run_dir.replace(run_dir.wandb, json.dumps({"id": identity}) + "\n")
    return identity
