"""The steps of a run whose memory differs: the first, an ordinary one, one that refreshes subspaces, and an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from galore.trainer.data.batch import Batch
from galore.trainer.evaluate import batch_loss
from galore.trainer.memory.tracer import Tracer
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.recipe.schema import Recipe
from galore.trainer.step import train_step

FIRST, ORDINARY, REFRESH, EVALUATION = "first step", "ordinary step", "refresh step", "evaluation"
MICRO_BATCHES = 2  # of a step that are rehearsed: from the third on, nothing new is allocated


def rehearse(model: nn.Module, optimizer: GaLoreAdamW, recipe: Recipe, vocab_size: int, tracer: Tracer) -> None:
    """Carry out each kind of step once, with random tokens, while `tracer` looks on. Weights and states change."""
    train = recipe.train
    rows = train.micro_batch_size * rehearsed_micro_batches(recipe)
    for phase, clock in clocks(optimizer):
        for group in optimizer.param_groups:
            group["clock"] = clock
        tracer.begin(phase)
        batch = random_batch(rows, recipe.data.max_length, vocab_size)
        train_step(model, optimizer, batch, train.micro_batch_size, recipe.optim.max_grad_norm)
    tracer.begin(EVALUATION)
    rows = recipe.eval.micro_batch_size or train.micro_batch_size
    model.eval()
    batch_loss(model, random_batch(rows, recipe.data.max_length, vocab_size))
    model.train()


def rehearsed_micro_batches(recipe: Recipe) -> int:
    """Micro-batches of one rehearsed step."""
    return min(MICRO_BATCHES, recipe.train.accumulation)


def random_batch(rows: int, length: int, vocab_size: int) -> Batch:
    """Token ids (rows, length) without padding."""
    ids = torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return Batch(ids, ids, tuple(range(rows)))


def clocks(optimizer: GaLoreAdamW) -> Iterator[tuple[str, int]]:
    """(kind of step, optimizer steps taken before it): the refresh is that of the largest matrices that share a step."""
    yield FIRST, 0
    due: dict[int, int] = {}
    for slot in optimizer.projected:
        for clock in range(1, 2 * slot.schedule.gap + 1):
            due[clock] = due.get(clock, 0) + slot.parameter.numel() * slot.schedule.due(clock)
    yield ORDINARY, min(due, key=lambda clock: due[clock], default=1)
    if due:
        yield REFRESH, max(due, key=lambda clock: due[clock])


def watch_gradients(model: nn.Module, tracer: Tracer) -> None:
    """Label gradients as the backward makes them; call it before the optimizer, which takes them, is built."""

    def seen(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracer.label("gradients", [parameter.grad])

    _on_gradient(model.parameters(), seen)


def watch_optimizer(optimizer: GaLoreAdamW, tracer: Tracer) -> None:
    """Label what the optimizer holds, as it comes: sums in the backward, moments and projectors in the step."""

    def held(*_: object) -> None:
        for category, tensor in optimizer.tensors():
            tracer.label(category, [tensor])

    def taken(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        for category, tensor in optimizer.slots[parameter].tensors():
            tracer.label(category, [tensor])

    _on_gradient(optimizer.slots, taken)
    optimizer.register_step_pre_hook(held)
    optimizer.register_step_post_hook(held)


def _on_gradient(parameters: Iterable[Tensor], call: object) -> None:
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(call)  # type: ignore[no-untyped-call]
