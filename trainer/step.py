"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from galore.kernels.cross_entropy import linear_cross_entropy
from galore.trainer.data.batch import IGNORED, Batch
from galore.trainer.memory.live import by_category
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW, StepReport


@dataclass(frozen=True)
class StepResult:
    """`loss_nats` is the mean over the step's targets, `held` the bytes by category, both before the update.

    `restarted`: adapters that were merged and started anew after it.
    """

    loss_nats: float
    targets: int
    held: dict[str, int]
    report: StepReport
    restarted: int = 0


def train_step(
    model: nn.Module, optimizer: GaLoreAdamW, batch: Batch, micro_batch_size: int, max_grad_norm: float | None
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches.
    """
    targets = count_targets(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            accumulate(model, batch, micro_batch_size, targets)
    loss = accumulate(model, batch, micro_batch_size, targets)
    if optimizer.update == "accumulate":
        optimizer.clip_grad_norm_(max_grad_norm)
    held = by_category(model, optimizer)
    optimizer.step()
    assert optimizer.report is not None
    return StepResult(loss, targets, held, optimizer.report)


def accumulate(model: nn.Module, batch: Batch, micro_batch_size: int, targets: int) -> float:
    """Forward and backward over all micro-batches; returns the loss in nats per target."""
    total = 0.0
    for micro_batch in micro_batches(batch, micro_batch_size):
        loss = summed_loss(model, micro_batch) / targets
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive rows of `batch`, `size` at a time."""
    for start in range(0, len(batch), size):
        yield batch.rows(start, start + size)


def count_targets(batch: Batch) -> int:
    """Positions that are predicted: the first of a row never is."""
    return max(1, int((batch.labels[:, 1:] != IGNORED).sum()))


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Σ -log p(target) over the targets of `batch`, fp32 scalar with gradient. The logits never exist whole."""
    device = next(model.parameters()).device
    input_ids = batch.input_ids.to(device, non_blocking=True)
    targets = torch.full_like(batch.labels, IGNORED)
    targets[:, :-1] = batch.labels[:, 1:]
    targets = targets.view(-1)
    split = split_head(model)
    if split is not None:
        kept = (
            (targets != IGNORED).nonzero().squeeze(1)
        )  # on the CPU, where the labels are: a GPU need not be waited for
        rows, kept_targets = kept.to(device, non_blocking=True), targets[kept].to(device, non_blocking=True)
        hidden = split.hidden(input_ids).flatten(0, 1).index_select(0, rows)
        return linear_cross_entropy(hidden, split.weight, kept_targets, ignore_index=None)
    targets = targets.to(device, non_blocking=True)
    logits = model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1)
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
