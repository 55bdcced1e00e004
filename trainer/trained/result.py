"""What a run left, for whoever started it from Python: its rows, what it came to, and the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galore.trainer.checkpoint.checkpoint import newest_verified
from galore.trainer.record.metrics import read_rows
from galore.trainer.record.row import loss_of
from galore.trainer.record.rundir import RunDir

if TYPE_CHECKING:
    from galore.trainer.trained.runmodel import StoredModel


@dataclass(frozen=True)
class TrainedRun(os.PathLike[str]):
    """A run on the disk; each attribute is read when it is asked for.

    Args:
        dir: its directory, which this stands for wherever a path is wanted.
        stopped: which callback asked it to stop, and why; empty where it came to its last step.
    """

    dir: Path
    stopped: str = ""

    def __fspath__(self) -> str:
        return str(self.dir)

    @property
    def facts(self) -> dict[str, Any]:
        """run.json: versions, machine, data, parameters, what it came to."""
        return RunDir.open(self.dir).read_facts()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl: one row per step (`kind` train), evaluation (eval) and event."""
        return list(read_rows(RunDir.open(self.dir).metrics))

    @property
    def final(self) -> dict[str, Any]:
        """The last evaluation, such as `loss_nats` and `perplexity`, with its `step`; empty while a run is not over."""
        facts = self.facts
        return dict(facts.get("final", {})) if "finished" in facts else {}

    @property
    def train_loss(self) -> float | None:
        """Loss of the last step, in nats per target; None where there is none, or it was not finite."""
        losses = [loss_of(row) for row in self.rows if row.get("kind") == "train"]
        return losses[-1] if losses else None

    @property
    def report(self) -> Path:
        """report.md."""
        return RunDir.open(self.dir).report

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole."""
        found, _ = newest_verified(RunDir.open(self.dir).checkpoints)
        return found.path if found else None

    def load_model(self, device: str = "cpu") -> StoredModel:
        """The trained model, as `model` a plain one of transformers, and its `tokenizer`.

        Raises:
            UserError: no checkpoint is whole.
        """
        from galore.trainer.trained.runmodel import load_run_model

        return load_run_model(str(self.dir), device)
