"""One optimizer step: forward and backward over the micro-batches, then a transactional update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from galore.kernels.model.cross_entropy import LossSums
from galore.trainer.data.batch import Batch, Extra
from galore.trainer.data.score import means
from galore.trainer.losses.router import RouterLoss
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW, StepReport
from galore.trainer.parallel.group import Group


@dataclass(frozen=True)
class StepResult:
    """`loss_nats`: mean cross-entropy over the step's targets before the update; squared error where they are scores.

    `restarted`: adapters that were merged and started anew after it. `z_loss`: what was optimized beside the
    cross-entropy, per target and with its coefficient. `by_modality`: the cross-entropy of each, where there are
    several. `extra_loss`: the mean of a second loss, without its weight. `router_loss`: the mean over micro-batches of
    the auxiliary loss of a mixture of experts, without its coefficient.
    """

    loss_nats: float
    targets: int
    report: StepReport
    restarted: int = 0
    z_loss: float = 0.0
    by_modality: Mapping[str, float] | None = None
    extra_loss: float | None = None
    router_loss: float | None = None


class Accumulated(NamedTuple):
    """Means over a step: cross-entropy and z-loss in nats per target; sums by kind of target; a second loss; routers'."""

    loss: float
    z: float
    parts: list[float] | None = None
    extra: float | None = None
    router: float | None = None

    def over(self, group: Group) -> Accumulated:
        """Means and sums of all ranks together."""
        parts = None if self.parts is None else [group.total(each) for each in self.parts]
        extra, router = (None if each is None else group.total(each) for each in (self.extra, self.router))
        return Accumulated(group.total(self.loss), group.total(self.z), parts, extra, router)


def train_step(
    model: nn.Module,
    optimizer: GaLoreAdamW,
    batch: Batch,
    micro_batch_size: int,
    max_grad_norm: float | None,
    z_loss: float = 0.0,
    group: Group | None = None,
    extra: Extra | None = None,
    router: RouterLoss | None = None,
) -> StepResult:
    """Accumulate `batch`, clip the exact global norm of what will be applied, and update; or skip, if it is not finite.

    The gradient is that of the mean loss over all targets of `batch`, however it is cut into micro-batches:
    cross-entropy, and `z_loss` times the mean squared logsumexp; or the squared error of scores; and the mean of the
    `extra` loss times its weight. The `router` loss, no sum over tokens, is that of each micro-batch by its tokens. Of
    several processes each takes a share of the rows, and what each finds is added up.
    """
    targets, whole = count_targets(batch), batch
    beside = None if extra is None else (extra, max(1, extra.count(batch)))
    routed = None if router is None else (router, batch.tokens)
    batch = batch if group is None else group.share(batch)
    if optimizer.wants_sketch_pass:
        with optimizer.sketching():
            rows = (
                batch
                if not optimizer.sketches_first
                else batch.rows(0, micro_batch_size if group is None or group.is_first else 0)
            )
            accumulate(model, rows, micro_batch_size, targets, z_loss, beside, routed)
    found = accumulate(model, batch, micro_batch_size, targets, z_loss, beside, routed, optimizer.expect_last)
    if optimizer.update == "accumulate":
        optimizer.clip_grad_norm_(max_grad_norm)
    # After the sums of gradients, of which some ranks may have begun more than others, and before a weight moves.
    if group is not None:
        found = found.over(group)
    optimizer.step()
    assert optimizer.report is not None
    parts = None if found.parts is None else means(whole.by_modality(found.parts))
    return StepResult(found.loss, targets, optimizer.report, 0, found.z, parts, found.extra, found.router)


def accumulate(
    model: nn.Module,
    batch: Batch,
    micro_batch_size: int,
    targets: int,
    z_loss: float = 0.0,
    beside: tuple[Extra, int] | None = None,
    routed: tuple[RouterLoss, int] | None = None,
    before_last: Callable[[], None] = lambda: None,
) -> Accumulated:
    """Forward and backward over all micro-batches; `beside` is a second loss, and what its sum is divided by, `routed`
    that of routers, and the tokens of the step.

    `before_last` is called between the last forward and its backward.
    """
    left = len(batch)
    total, z = torch.zeros((), dtype=torch.float64), 0.0
    parts: Tensor | None = None
    second: Tensor | None = None
    balance: Tensor | None = None
    for micro_batch in micro_batches(batch, micro_batch_size):
        with nullcontext() if routed is None else routed[0].watching():
            sums = summed_losses(model, micro_batch, z_loss, None if beside is None else beside[0])
        left -= len(micro_batch)
        loss = sums.total / targets
        if beside is not None and sums.extra is not None:
            mean = sums.extra / beside[1]
            loss, second = loss + beside[0].weight * mean, mean.detach().double() + (0.0 if second is None else second)
        if routed is not None:
            share = routed[0].taken() * (micro_batch.tokens / routed[1])
            loss, balance = loss + routed[0].coefficient * share, share.detach() + (0.0 if balance is None else balance)
        if not left:
            before_last()
        loss.backward()  # type: ignore[no-untyped-call]
        total = total + sums.cross_entropy / targets  # where it is: a GPU is not waited for before the next micro-batch
        z += float(sums.z / targets) if z_loss else 0.0
        if sums.parts is not None:
            parts = sums.parts.double() if parts is None else parts + sums.parts
    extra = None if beside is None else 0.0 if second is None else float(second)
    found = None if parts is None else [float(each) for each in parts]
    router = None if routed is None else 0.0 if balance is None else float(balance)
    return Accumulated(float(total), z, found, extra, router)


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Consecutive rows of `batch`, `size` at a time."""
    for start in range(0, len(batch), size):
        yield batch.rows(start, start + size)


def count_targets(batch: Batch) -> int:
    """What a sum over `batch` is divided by."""
    return max(1, batch.targets)


def summed_losses(model: nn.Module, batch: Batch, z_loss: float = 0.0, extra: Extra | None = None) -> LossSums:
    """What is summed over the targets of `batch`."""
    return batch.losses(model, split_head, z_loss, extra)
