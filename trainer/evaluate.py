"""Score held-out text: mean cross-entropy in nats, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Batch
from galore.trainer.data.rows.labelled import LabelledBatch
from galore.trainer.models.head import split_head
from galore.trainer.step import AnyBatch, micro_batches, summed_loss

Mode = Literal["token", "paper"]


@dataclass(frozen=True)
class EvalResult:
    """`loss_nats` is the mean the mode defines, `perplexity` its exponential, `tokens` the targets that were scored."""

    loss_nats: float
    perplexity: float
    tokens: int
    batches: int
    mode: Mode

    def row(self) -> dict[str, Any]:
        """What the metrics of a run keep of it."""
        return self.final() | {"tokens": self.tokens}

    def final(self) -> dict[str, Any]:
        """What the facts of a run keep of the last one."""
        return {"loss_nats": self.loss_nats, "perplexity": self.perplexity, "mode": self.mode}


def evaluate(model: nn.Module, batches: Iterable[Batch], mode: Mode = "token") -> EvalResult:
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
    return EvalResult(mean, perplexity(mean), tokens, count, mode)


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


def perplexity(loss_nats: float) -> float:
    """exp(loss), infinite where it does not fit a float."""
    try:
        return math.exp(loss_nats)
    except OverflowError:
        return math.inf


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
