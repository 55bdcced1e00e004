"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums
from galore.kernels.span import span
from galore.trainer.data.batch import PLAIN, Batch, Objective
from galore.trainer.data.score import means
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW, StepReport
from galore.trainer.parallel.group import Group


@dataclass(frozen=True)
class StepResult:
    """`loss_nats`: mean cross-entropy over the step's targets before the update; squared error where they are scores.

    `restarted`: adapters that were merged and started anew after it. `z_loss`: what was optimized beside the
    cross-entropy, per target and with its coefficient. `by_modality`: the cross-entropy of each, where there are
    several. `extra_loss`: the mean of a second loss, without its weight.
    """

    loss_nats: float
    targets: int
    report: StepReport
    restarted: int = 0
    z_loss: float = 0.0
    by_modality: Mapping[str, float] | None = None
    extra_loss: float | None = None


class Accumulated(NamedTuple):
    """Means over a step: cross-entropy and z-loss in nats per target; sums by kind of target; a second loss."""

    loss: float
    z: float = 0.0
    parts: list[float] | None = None
    extra: float | None = None

    def over(self, group: Group) -> Accumulated:
        """Means and sums of all ranks together."""
        parts = None if self.parts is None else [group.total(each) for each in self.parts]
        extra = None if self.extra is None else group.total(self.extra)
        return Accumulated(group.total(self.loss), group.total(self.z), parts, extra)


def train_step(
    model: nn.Module,
    optimizer: GaLoreAdamW,
    batch: Batch,
    micro_batch_size: int,
    max_grad_norm: float | None,
    objective: Objective = PLAIN,
    group: Group | None = None,
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches:
    cross-entropy, and the z-loss times the mean squared logsumexp; or the squared error of scores; and the mean of an
    extra loss times its weight. Of several processes each takes a share of the rows, and what each finds is added up.
    """
    whole, counts = (
        batch,
        (count_targets(batch), 1 if objective.extra is None else max(1, objective.extra.count(batch))),
    )
    batch = batch if group is None else group.share(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            rows = (
                batch
                if not optimizer.sketches_first
                else batch.rows(0, micro_batch_size if group is None or group.is_first else 0)
            )
            accumulate(model, rows, micro_batch_size, *counts, objective)
    found = accumulate(model, batch, micro_batch_size, *counts, objective, optimizer.expect_last)
    if optimizer.update == "accumulate":
        with span("update"):
            optimizer.clip_grad_norm_(max_grad_norm)
    # After the sums of gradients, of which some ranks may have begun more than others, and before a weight moves.
    if group is not None:
        found = found.over(group)
    with span("update"):
        optimizer.step()
    assert optimizer.report is not None
    parts = None if found.parts is None else means(whole.by_modality(found.parts))
    return StepResult(
        found.loss, counts[0], optimizer.report, z_loss=found.z, by_modality=parts, extra_loss=found.extra
    )


def accumulate(
    model: nn.Module,
    batch: Batch,
    micro_batch_size: int,
    targets: int,
    extras: int = 1,
    objective: Objective = PLAIN,
    before_last: Callable[[], None] = lambda: None,
) -> Accumulated:
    """Forward and backward over all micro-batches.

    Args:
        targets, extras: what the sums of the cross-entropy and of an extra loss are divided by.
        before_last: called between the last forward and its backward.
    """
    extra = objective.extra
    left = len(batch)
    # Sums stay where they are until the end: a GPU is not waited for before the next micro-batch.
    total = z = second = torch.zeros((), dtype=torch.float64)
    parts: Tensor | None = None
    for micro_batch in micro_batches(batch, micro_batch_size):
        with span("forward"):
            sums = summed_losses(model, micro_batch, objective)
        left -= len(micro_batch)
        loss = sums.total / targets
        if extra is not None and sums.extra is not None:
            mean = sums.extra / extras
            loss, second = loss + extra.weight * mean, second + mean.detach()
        if not left:
            before_last()
        with span("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        total = total + sums.cross_entropy / targets
        z = z + sums.z / targets if objective.z_loss else z
        if sums.parts is not None:
            parts = sums.parts.double() if parts is None else parts + sums.parts
    wanted = {"loss": total} | ({"z": z} if objective.z_loss else {}) | ({} if extra is None else {"extra": second})
    numbers = _read([*wanted.values(), *([] if parts is None else parts)])
    by_kind = None if parts is None else numbers[len(wanted) :]
    return Accumulated(**dict(zip(wanted, numbers, strict=False)), parts=by_kind)


def _read(sums: list[Tensor]) -> list[float]:
    """Numbers (), read together: a GPU is waited for once."""
    if len(sums) == 1:
        return [float(sums[0])]
    if sums[0].is_meta:
        return [float(each) for each in sums]
    return list(torch.stack([each.to(sums[0].device) for each in sums]).cpu().tolist())


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive rows of `batch`, `size` at a time."""
    for start in range(0, len(batch), size):
        yield batch.rows(start, start + size)


def count_targets(batch: Batch) -> int:
    """What a sum over `batch` is divided by."""
    return max(1, batch.targets)


def summed_losses(model: nn.Module, batch: Batch, objective: Objective = PLAIN) -> LossSums:
    """What is summed over the targets of `batch`."""
    return batch.losses(model, split_head, objective)
