"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from galore.kernels.model.cross_entropy import LossSums
from galore.trainer.data.batch import Batch
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW, StepReport
from galore.trainer.parallel.entered import entered
from galore.trainer.parallel.group import Group


@dataclass(frozen=True)
class StepResult:
    """`loss_nats`: mean cross-entropy over the step's targets before the update; squared error where they are scores.

    `restarted`: adapters that were merged and started anew after it. `z_loss`: what was optimized beside the
    cross-entropy, per target and with its coefficient.
    """

    loss_nats: float
    targets: int
    report: StepReport
    restarted: int = 0
    z_loss: float = 0.0


def train_step(
    model: nn.Module,
    optimizer: GaLoreAdamW,
    batch: Batch,
    micro_batch_size: int,
    max_grad_norm: float | None,
    z_loss: float = 0.0,
    group: Group | None = None,
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches:
    cross-entropy, and `z_loss` times the mean squared logsumexp; or the squared error of scores. Of several processes
    each takes a share of the rows, and what each finds is added up.
    """
    targets = count_targets(batch)
    batch = batch if group is None else group.share(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            accumulate(model, batch, micro_batch_size, targets, z_loss)
    loss, z = accumulate(model, batch, micro_batch_size, targets, z_loss)
    if group is not None:
        loss, z = group.total(loss), group.total(z)
    if optimizer.update == "accumulate":
        optimizer.clip_grad_norm_(max_grad_norm)
    optimizer.step()
    assert optimizer.report is not None
    return StepResult(loss, targets, optimizer.report, z_loss=z)


def accumulate(
    model: nn.Module, batch: Batch, micro_batch_size: int, targets: int, z_loss: float = 0.0
) -> tuple[float, float]:
    """Forward and backward over all micro-batches; returns the cross-entropy in nats per target, and the z-loss."""
    total, z = torch.zeros((), dtype=torch.float64), 0.0
    for micro_batch in micro_batches(batch, micro_batch_size):
        sums = summed_losses(model, micro_batch, z_loss)
        (sums.total / targets).backward()  # type: ignore[no-untyped-call]
        total = total + sums.cross_entropy / targets  # where it is: a GPU is not waited for before the next micro-batch
        z += float(sums.z / targets) if z_loss else 0.0
    return float(total), z


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive rows of `batch`, `size` at a time."""
    for start in range(0, len(batch), size):
        yield batch.rows(start, start + size)


def count_targets(batch: Batch) -> int:
    """What a sum over `batch` is divided by."""
    return max(1, batch.targets)


def summed_losses(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> LossSums:
    """What is summed over the targets of `batch`."""
    return entered(model, lambda: batch.losses(model, split_head, z_loss))
