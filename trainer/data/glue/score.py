"""What a classifier scores on the held-out splits of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from galore.trainer.data.rows.labelled import Examples, LabelledBatch, batches
from galore.trainer.data.score import in_step, scoring, shared_out
from galore.trainer.optim.ranks import Ranks
from galore.trainer.parallel.entered import entered, is_sharded
from galore.trainer.tasks.glue import Task
from galore.trainer.tasks.metrics import collapsed, flat, score

Scores = Mapping[str, float]


@dataclass(frozen=True)
class TaskResult:
    """`scores`: {split: {metric: value}} of whole splits, the one that counts first; `loss`: mean over its `examples`.

    `collapsed`: what to tell the user where (nearly) every prediction for that split is the same.
    """

    task: Task
    scores: Mapping[str, Scores]
    loss: float
    examples: int
    collapsed: str | None

    @property
    def main(self) -> Scores:
        return next(iter(self.scores.values()))

    @property
    def headline(self) -> float:
        return self.main[self.task.headline]

    def row(self) -> dict[str, Any]:
        """What the metrics of a run keep of it."""
        name = "squared_error" if self.task.is_regression else "loss_nats"
        return {name: self.loss, "task": self.task.name, "scores": self.scores, "collapsed": self.collapsed}

    def final(self) -> dict[str, Any]:
        """What the facts of a run keep of the last one."""
        return {"task": self.task.name, **flat(self.scores)}


@dataclass(frozen=True)
class Outputs:
    """`predictions`: classes (n,) int64, or scores (n,) float64, in order; `loss`: mean, 0 without labels."""

    predictions: npt.NDArray[Any]
    loss: float


def predict(
    model: nn.Module, examples: Examples, size: int, labelled: bool = True, ranks: Ranks | None = None
) -> Outputs:
    """What `model` says of every one of `examples`, `size` at a time; without a loss where they are not `labelled`.

    Of several `ranks` each takes every so many of the batches, and all of them get all answers.
    """
    device = next(model.parameters()).device
    found: npt.NDArray[Any] = np.zeros(len(examples), np.promote_types(examples.labels.dtype, np.int32))
    total = 0.0

    def logits_of(batch: LabelledBatch) -> Tensor:
        out: Tensor = entered(model, lambda: model(**batch.inputs(model)).logits)
        return out

    cut = batches(examples, size)
    if ranks is not None and is_sharded(model):
        own = in_step(cut, ranks, lambda _: 1, logits_of)
    else:
        own = shared_out(cut, ranks)
    with scoring(model):
        for batch in own:
            logits = logits_of(batch).float().cpu()
            found[batch.numbers] = (logits.squeeze(1) if found.dtype.kind == "f" else logits.argmax(1)).numpy()
            total += float(batch.summed_loss(logits)) if labelled else 0.0
    if ranks is not None:
        answers = torch.from_numpy(found).to(device)
        ranks.start_sum(answers)()
        found, total = answers.cpu().numpy(), ranks.total(total)
    return Outputs(found, total / len(examples))


def score_task(
    model: nn.Module, task: Task, held_out: Mapping[str, Examples], size: int, ranks: Ranks | None = None
) -> TaskResult:
    """The metrics of the task on every split that is held out, all of its examples."""
    outputs = {split: predict(model, examples, size, ranks=ranks) for split, examples in held_out.items()}
    scores = {split: score(task, found.predictions, held_out[split].labels) for split, found in outputs.items()}
    first, found = next(iter(outputs.items()))
    return TaskResult(task, scores, found.loss, len(held_out[first]), collapsed(task, found.predictions))
