"""Training examples and held-out splits of one task, in an order that is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from galore.trainer.data.batch import Scoring
from galore.trainer.data.glue.score import TaskResult, score_task
from galore.trainer.data.rows.labelled import Examples, LabelledBatch
from galore.trainer.data.rows.mapped import Order, require_same_data
from galore.trainer.tasks.glue import TASKS
from galore.trainer.tasks.metrics import baseline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LabelledData:
    """See `batch.Data`."""

    tokenizer: PreTrainedTokenizerBase
    task: str
    train: Examples
    held_out: Mapping[str, Examples]  # by split, the one that counts first
    order: Order
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def num_sequences(self) -> int:
        return len(self.train)

    @property
    def has_validation(self) -> bool:
        return bool(self.held_out)

    def global_batch(self, step: int) -> LabelledBatch:
        return self.train.batch(self.order.rows(step, len(self.train)))

    def score(self, model: nn.Module, scoring: Scoring) -> TaskResult:
        """The metrics of the task on whole splits, whatever section `eval` says of tokens; there is no extra loss."""
        return score_task(model, TASKS[self.task], self.held_out, scoring.micro_batch_size, scoring.ranks)

    def baseline(self) -> dict[str, Any]:
        """What the most frequent label, or the mean score, of the training examples reaches in each split."""
        task = TASKS[self.task]
        splits = self.held_out.items()
        return {"baseline": {split: dict(baseline(task, each.labels, self.train.labels)) for split, each in splits}}

    def position(self) -> dict[str, Any]:
        return {"fingerprint": self.summary["fingerprint"]}

    def seek(self, position: dict[str, Any], step: int) -> None:
        require_same_data(position, self.summary)
