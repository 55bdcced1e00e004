"""Score held-out text: mean cross-entropy in nats, and perplexity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import exponential
from galore.trainer.data.batch import Batch, TrainingData
from galore.trainer.data.prepare import Data
from galore.trainer.data.rows.labelled import Examples, LabelledBatch, LabelledData, batches
from galore.trainer.data.rows.mapped import count_targets
from galore.trainer.models.head import split_head
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.train import EvalMode
from galore.trainer.record.history import flat
from galore.trainer.step import AnyBatch, micro_batches, summed_loss
from galore.trainer.tasks.glue import TASKS, Task
from galore.trainer.tasks.metrics import baseline, collapsed, score


@dataclass(frozen=True)
class EvalResult:
    """`loss_nats` is the mean the mode defines, `perplexity` its exponential, `tokens` the targets that were scored."""

    loss_nats: float
    perplexity: float
    tokens: int
    batches: int
    mode: EvalMode

    def row(self) -> dict[str, Any]:
        """What the metrics of a run keep of it."""
        return self.final() | {"tokens": self.tokens}

    def final(self) -> dict[str, Any]:
        """What the facts of a run keep of the last one."""
        return {"loss_nats": self.loss_nats, "perplexity": self.perplexity, "mode": self.mode}


def evaluate(model: nn.Module, batches: Iterable[Batch], mode: EvalMode = "token") -> EvalResult:
    """Cross-entropy of `model` on `batches`; leaves the model in the mode (training or not) it was in.

    mode "token": Σ over all targets of −log p(target), divided by the number of targets. The last, smaller batch and
    rows with padding weigh by their tokens. This is the number to compare models by.

    mode "paper": mean of the batch means, divided by n + 1 for n batches, as the evaluation of the GaLore paper's
    official code does (its batch counter starts at one). All published GaLore perplexities carry this factor, which
    lowers the loss by 1/(n+1); the mode exists to compare with them, and for nothing else.

    Sums are float32 within a batch, float64 across batches. Labels are not shifted; −100 is not scored.

    Raises:
        UserError: there is nothing to score.
    """
    summed, tokens, batch_means, count = 0.0, 0, 0.0, 0
    with scoring(model):
        for batch in batches:
            loss, scored = batch_loss(model, batch)
            if scored:
                summed, tokens = summed + loss, tokens + scored
                batch_means, count = batch_means + loss / scored, count + 1
    if not tokens:
        raise UserError("there is no held-out token to score", where="eval", fix="raise data.validation_fraction")
    mean = summed / tokens if mode == "token" else batch_means / (count + 1)
    return EvalResult(mean, exponential(mean), tokens, count, mode)


@torch.no_grad()
def batch_loss(model: nn.Module, batch: AnyBatch) -> tuple[float, int]:
    """Summed cross-entropy of one batch, nats, and the number of its targets. No gradient.

    The float32 logits of a whole batch never exist: the training loss takes the head apart where it can, and where it
    cannot the rows go through the model one by one.
    """
    targets = batch.targets
    if not targets:
        return 0.0, 0
    rows = len(batch) if isinstance(batch, LabelledBatch) or split_head(model) is not None else 1
    return sum(float(summed_loss(model, part)) for part in micro_batches(batch, rows)), targets


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


Scores = Mapping[str, float]


@dataclass(frozen=True)
class TaskResult:
    """`scores`: {split: {metric: value}} of whole splits, the one that counts first; `loss` is the mean over its `examples`.

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


Result = EvalResult | TaskResult


def final_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `final` of the result gave whose `row` was recorded."""
    if "task" in row:
        return {"task": row["task"], **flat(row["scores"])}
    return {name: row.get(name) for name in ("loss_nats", "perplexity", "mode")}


def score_held_out(model: nn.Module, data: Data, recipe: Recipe) -> Result:
    """The score of `model` on all that `data` holds out, as section `eval` says; its mode is left as it was.

    Raises:
        UserError: there is nothing to score.
    """
    size = recipe.eval.micro_batch_size or recipe.train.micro_batch_size
    if isinstance(data, LabelledData):
        return score_task(model, data, size)
    return evaluate(model, data.validation_batches(size, recipe.eval.max_tokens), recipe.eval.mode)


def score_task(model: nn.Module, data: LabelledData, size: int) -> TaskResult:
    """The metrics of the task on every split that is held out, all of its examples."""
    task = TASKS[data.task]
    outputs = {split: predict(model, examples, size) for split, examples in data.held_out.items()}
    scores = {split: score(task, found.predictions, data.held_out[split].labels) for split, found in outputs.items()}
    first, found = next(iter(outputs.items()))
    return TaskResult(task, scores, found.loss, len(data.held_out[first]), collapsed(task, found.predictions))


@dataclass(frozen=True)
class Outputs:
    """`predictions`: classes (n,) int64, or scores (n,) float64, in the order of the examples; `loss`: mean, 0 without labels."""

    predictions: npt.NDArray[Any]
    loss: float


def predict(model: nn.Module, examples: Examples, size: int, labelled: bool = True) -> Outputs:
    """What `model` says of every one of `examples`, `size` at a time; without a loss where they are not `labelled`."""
    device = next(model.parameters()).device
    found: npt.NDArray[Any] = np.empty(len(examples), np.promote_types(examples.labels.dtype, np.int32))
    total = 0.0
    with scoring(model):
        for batch in batches(examples, size):
            logits = model(**batch.inputs(device)).logits.float().cpu()
            found[batch.numbers] = (logits.squeeze(1) if found.dtype.kind == "f" else logits.argmax(1)).numpy()
            total += float(batch.summed_loss(logits)) if labelled else 0.0
    return Outputs(found, total / len(examples))


def baseline_facts(data: Data) -> dict[str, Any]:
    """What is reached without looking at the input: by the frequencies of tokens, or by the most frequent label."""
    if not isinstance(data, LabelledData):
        return {"unigram_loss_nats": unigram_loss_nats(data)}
    task = TASKS[data.task]
    return {
        "baseline": {
            split: dict(baseline(task, each.labels, data.train.labels)) for split, each in data.held_out.items()
        }
    }


BATCH_ROWS = 256


def unigram_loss_nats(data: TrainingData, max_tokens: int | None = None) -> float:
    """Mean cross-entropy, in nats per token, of the held-out targets under add-one smoothed training frequencies:

        −log p(t) = log(N + V) − log(n_t + 1)

    with n_t the count of t among the N training targets and V the vocabulary. The targets are those that
    `validation_batches(…, max_tokens)` scores.

    Raises:
        UserError: nothing is held out.
    """
    train = data.token_counts()  # (V,)
    nats = np.log(train.sum() + len(train)) - np.log(train + 1)
    held_out = np.zeros_like(train)
    for batch in data.validation_batches(BATCH_ROWS, max_tokens):
        held_out += count_targets(batch.labels.numpy(), len(train))
    if not held_out.any():
        raise UserError("no held-out token to score", where="data.validation_fraction", fix="hold out a share above 0")
    return float(nats @ held_out / held_out.sum())
