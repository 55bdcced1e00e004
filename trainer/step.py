"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums, linear_loss
from galore.trainer.data.batch import IGNORED, Batch
from galore.trainer.data.rows.labelled import LabelledBatch
from galore.trainer.memory.live import by_category
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW, StepReport

AnyBatch = Batch | LabelledBatch


@dataclass(frozen=True)
class StepResult:
    """`loss_nats` is the mean cross-entropy over the step's targets (squared error where they are scores), `held` the bytes
    by category, both before the update.

    `restarted`: adapters that were merged and started anew after it. `z_loss`: what was optimised beside the
    cross-entropy, per target and with its coefficient.
    """

    loss_nats: float
    targets: int
    held: dict[str, int]
    report: StepReport
    restarted: int = 0
    z_loss: float = 0.0


def train_step(
    model: nn.Module,
    optimizer: GaLoreAdamW,
    batch: AnyBatch,
    micro_batch_size: int,
    max_grad_norm: float | None,
    z_loss: float = 0.0,
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches: cross-entropy,
    and `z_loss` times the mean squared logsumexp; or the squared error of scores.
    """
    targets = count_targets(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            accumulate(model, batch, micro_batch_size, targets, z_loss)
    loss, z = accumulate(model, batch, micro_batch_size, targets, z_loss)
    if optimizer.update == "accumulate":
        optimizer.clip_grad_norm_(max_grad_norm)
    held = by_category(model, optimizer)
    optimizer.step()
    assert optimizer.report is not None
    return StepResult(loss, targets, held, optimizer.report, z_loss=z)


def accumulate(
    model: nn.Module, batch: AnyBatch, micro_batch_size: int, targets: int, z_loss: float = 0.0
) -> tuple[float, float]:
    """Forward and backward over all micro-batches; returns the cross-entropy in nats per target, and the z-loss."""
    total, z = torch.zeros((), dtype=torch.float64), 0.0
    for micro_batch in micro_batches(batch, micro_batch_size):
        sums = summed_losses(model, micro_batch, z_loss)
        (sums.total / targets).backward()  # type: ignore[no-untyped-call]
        total = total + sums.cross_entropy / targets  # where it is: a GPU is not waited for before the next micro-batch
        z += float(sums.z / targets) if z_loss else 0.0
    return float(total), z


def micro_batches(batch: AnyBatch, size: int) -> Iterator[AnyBatch]:
    """Consecutive rows of `batch`, `size` at a time."""
    for start in range(0, len(batch), size):
        yield batch.rows(start, start + size)


def count_targets(batch: AnyBatch) -> int:
    """What a sum over `batch` is divided by."""
    return max(1, batch.targets)


def summed_loss(model: nn.Module, batch: AnyBatch) -> Tensor:
    """Σ -log p(target) over the targets of `batch`, fp32 scalar with gradient."""
    return summed_losses(model, batch).total


def summed_losses(model: nn.Module, batch: AnyBatch, z_loss: float = 0.0) -> LossSums:
    """What is summed over the targets of `batch`: of tokens, or of labelled examples, which know no z-loss."""
    return labelled_losses(model, batch) if isinstance(batch, LabelledBatch) else token_losses(model, batch, z_loss)


def labelled_losses(model: nn.Module, batch: LabelledBatch) -> LossSums:
    """Cross-entropy of the labels of `batch`, nats; or squared errors, where they are scores."""
    total = batch.summed_loss(model(**batch.inputs(next(model.parameters()).device)).logits)
    return LossSums(total, total.detach(), total.new_zeros(()))


def token_losses(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> LossSums:
    """Cross-entropy and z-loss over the targets of `batch`. The logits never exist whole."""
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
        return linear_loss(hidden, split.weight, kept_targets, ignore_index=None, z_loss=z_loss)
    targets = targets.to(device, non_blocking=True)
    logits = model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1).float()
    cross_entropy = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    z = cross_entropy.new_zeros(())
    if z_loss:
        z = z_loss * logits.logsumexp(1)[targets != IGNORED].square().sum()
    return LossSums(cross_entropy + z, cross_entropy.detach(), z.detach())
