"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums
from galore.kernels.span import span
from galore.trainer.data.batch import PLAIN, Batch, Objective
from galore.trainer.data.score import means
from galore.trainer.models.head import rows_are_known, split_head
from galore.trainer.optim import GaLoreAdamW, StepReport
from galore.trainer.parallel.entered import entered
from galore.trainer.parallel.group import Group


@dataclass(frozen=True)
class StepResult:
    """`loss_nats`: mean cross-entropy over the step's targets before the update; squared error where they are scores.

    `tokens`: positions that were fed, padding included; of labelled examples without it.
    `restarted`: adapters that were merged and started anew after it. `z_loss`: what was optimized beside the
    cross-entropy, per target and with its coefficient. `by_modality`: the cross-entropy of each, where there are
    several. `extra_loss`: the mean of a second loss, without its weight. `router_loss`: the mean over micro-batches of
    the auxiliary loss of a mixture of experts, without its coefficient.
    """

    loss_nats: float
    targets: int
    tokens: int
    report: StepReport
    restarted: int = 0
    z_loss: float = 0.0
    by_modality: Mapping[str, float] | None = None
    extra_loss: float | None = None
    router_loss: float | None = None


class Accumulated(NamedTuple):
    """Means over a step: cross-entropy and z-loss in nats per target; sums by kind of target; other losses. And the
    tokens that were fed."""

    loss: float
    z: float = 0.0
    parts: list[float] | None = None
    extra: float | None = None
    router: float | None = None
    tokens: int = 0

    def over(self, group: Group) -> Accumulated:
        """Means and sums of all ranks together."""
        parts = None if self.parts is None else [group.total(each) for each in self.parts]
        extra, router = (None if each is None else group.total(each) for each in (self.extra, self.router))
        tokens = int(group.total(self.tokens))
        return Accumulated(group.total(self.loss), group.total(self.z), parts, extra, router, tokens)


class Counts(NamedTuple):
    """What sums over a step are divided by: those of the cross-entropy, of an extra loss, and of a mean by tokens."""

    targets: int
    extras: int = 1
    tokens: int = 1

    @classmethod
    def of(cls, batch: Batch, objective: Objective) -> Counts:
        extra = objective.extra
        return cls(count_targets(batch), 1 if extra is None else max(1, extra.count(batch)), batch.tokens)


def train_step(
    model: nn.Module,
    optimizer: GaLoreAdamW,
    batch: Batch,
    micro_batch_size: int,
    max_grad_norm: float | None,
    objective: Objective = PLAIN,
    group: Group | None = None,
    by_length: bool = False,
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches:
    cross-entropy, and the z-loss times the mean squared logsumexp; or the squared error of scores; and the mean of an
    extra loss times its weight. The loss of routers, no sum over tokens, is that of each micro-batch by its tokens. Of
    several processes each takes a share of the rows, and what each finds is added up.

    Args:
        by_length: rows of like length make a micro-batch, and it is as long as they need; else those that follow each
            other, as long as they are.
    """
    whole, counts = batch, Counts.of(batch, objective)
    batch = batch if group is None else group.share(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            rows = (
                batch
                if not optimizer.sketches_first
                else batch.rows(0, micro_batch_size if group is None or group.is_first or group.sharded else 0)
            )
            accumulate(model, rows, micro_batch_size, counts, objective, by_length=by_length)
    found = accumulate(model, batch, micro_batch_size, counts, objective, optimizer.expect_last, by_length)
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
    beside = (found.z, parts, found.extra, found.router)
    return StepResult(found.loss, counts.targets, found.tokens, optimizer.report, 0, *beside)


def accumulate(
    model: nn.Module,
    batch: Batch,
    micro_batch_size: int,
    counts: Counts,
    objective: Objective = PLAIN,
    before_last: Callable[[], None] = lambda: None,
    by_length: bool = False,
) -> Accumulated:
    """Forward and backward over all micro-batches.

    Args:
        counts: of the whole step.
        before_last: called between the last forward and its backward.
        by_length: see `train_step`.
    """
    extra, router = objective.extra, objective.router
    left, tokens = len(batch), 0
    # Sums stay where they are until the end: a GPU is not waited for before the next micro-batch.
    total = z = second = balance = torch.zeros((), dtype=torch.float64)
    parts: Tensor | None = None
    for micro_batch in micro_batches(batch, micro_batch_size, by_length):
        with span("forward"), nullcontext() if router is None else router.watching():
            sums = summed_losses(model, micro_batch, objective)
        left, tokens = left - len(micro_batch), tokens + micro_batch.tokens
        loss = sums.total / counts.targets
        if extra is not None and sums.extra is not None:
            mean = sums.extra / counts.extras
            loss, second = loss + extra.weight * mean, second + mean.detach()
        if router is not None:
            share = router.taken() * (micro_batch.tokens / counts.tokens)
            loss, balance = loss + router.coefficient * share, balance + share.detach()
        if not left:
            before_last()
        with span("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        total = total + sums.cross_entropy / counts.targets
        z = z + sums.z / counts.targets if objective.z_loss else z
        if sums.parts is not None:
            parts = sums.parts.double() if parts is None else parts + sums.parts
    wanted = {"loss": total} | ({"z": z} if objective.z_loss else {})
    wanted |= ({} if extra is None else {"extra": second}) | ({} if router is None else {"router": balance})
    numbers = _read([*wanted.values(), *([] if parts is None else parts)])
    by_kind = None if parts is None else numbers[len(wanted) :]
    return Accumulated(**dict(zip(wanted, numbers, strict=False)), parts=by_kind, tokens=tokens)


def _read(sums: list[Tensor]) -> list[float]:
    """Numbers (), read together: a GPU is waited for once."""
    if len(sums) == 1:
        return [float(sums[0])]
    return list(torch.stack([each.to(sums[0].device) for each in sums]).cpu().tolist())


def micro_batches(batch: Batch, size: int, by_length: bool = False) -> Iterator[Batch]:
    """Rows of `batch`, `size` at a time: consecutive ones, or the longest first and without padding none of them needs.

    What needs the most memory then comes first, and there are as many micro-batches either way.
    """
    if by_length and len(batch) > size:
        batch = batch.longest_first()
    for start in range(0, len(batch), size):
        rows = batch.rows(start, start + size)
        yield rows.fitted() if by_length else rows


def count_targets(batch: Batch) -> int:
    """What a sum over `batch` is divided by."""
    return max(1, batch.targets)


def summed_losses(model: nn.Module, batch: Batch, objective: Objective = PLAIN) -> LossSums:
    """What is summed over the targets of `batch`."""
    # transformers would take a position that is not one more than that before it for the beginning of a document
    with rows_are_known() if batch.skips is not None else nullcontext():
        return entered(model, lambda: batch.losses(model, split_head, objective))
