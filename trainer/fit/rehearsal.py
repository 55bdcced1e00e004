"""The steps of a run whose memory differs, carried out once each: first, ordinary, refresh, an evaluation."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.host import Host
from galore.trainer.build import build_model
from galore.trainer.data.batch import Batch, Objective
from galore.trainer.data.prepare import fullest_batch
from galore.trainer.data.rows.skips import skipping
from galore.trainer.data.score import batch_loss
from galore.trainer.fit.alike.few import choose, few
from galore.trainer.fit.alike.grown import grown
from galore.trainer.host.blocks import on_device, streamed
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About, ExtraLoss
from galore.trainer.losses.router import RouterLoss, build_router
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.trace.tracer import Tracer
from galore.trainer.models.checkpointing import offloading
from galore.trainer.models.head import split_head
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.refresh import Gradient
from galore.trainer.optim.ranks import Ranks
from galore.trainer.optim.slot import FullSlot
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.parameters import planned_vocabulary
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.step import train_step

FIRST, ORDINARY, REFRESH, EVALUATION = "first step", "ordinary step", "refresh step", "evaluation"


@dataclass(frozen=True)
class Rehearsal:
    """A recipe's model and optimizer, seen by a tracer, and the size of its vocabulary."""

    recipe: Recipe
    model: nn.Module
    optimizer: GaLoreAdamW
    vocabulary: int
    tracer: Tracer
    micro_batches: int
    extra: ExtraLoss | None = None
    router: RouterLoss | None = None
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)  # bytes to the device and to the host, by phase

    @classmethod
    def prepare(
        cls, loaded: LoadedRecipe, device: str, tracer: Tracer, most_micro_batches: int, ranks: Ranks | None = None
    ) -> Rehearsal:
        """Build what the recipe says on `device`, weights drawn or read, and let `tracer` see all of it.

        Args:
            most_micro_batches: of a step that are carried out, if the recipe has as many.
            ranks: that the optimizer shares its sums with.
        """
        recipe = loaded.recipe
        vocabulary, _ = planned_vocabulary(loaded)
        model, _ = build_model(recipe, vocabulary, device, loaded.base_dir)
        extra = build_extra(About(recipe, model, device, loaded.base_dir, _embedded(model)))
        beside = getattr(extra, "teacher", None)
        tracer.mark("model")
        for each in (model, beside) if isinstance(beside, nn.Module) else (model,):
            tracer.label("weights", on_device(each))
        tracer.follow(model)
        for checkpoint in offloading(model):
            checkpoint.fetched = lambda tensor: tracer.label("activations", [tensor])
        _watch_gradients(model, tracer)  # before the optimizer is there, which takes them
        micro_batches = min(most_micro_batches, recipe.train.accumulation)
        optimizer = attach_optimizer(model, recipe, micro_batches, ranks)
        _watch_optimizer(optimizer, tracer)
        return cls(
            recipe, model, optimizer, _embedded(model), tracer, micro_batches, extra, build_router(recipe, model)
        )

    def run(self, brief: bool = False) -> None:
        """Carry out each kind of step with random tokens. Weights and states change.

        Args:
            brief: leave out the ordinary step where there is a refresh, which needs all that it needs.
        """
        self._carry_out(self._steps(brief))

    def run_few(self, brief: bool = False) -> Trace:
        """Carry out the steps of `run` with as few blocks as show what all do; the trace of all. Nothing can follow it.

        Raises:
            UnlikeError: they do not show it.
        """
        steps = self._steps(brief)
        alone = self.optimizer.ranks is None and self.extra is None and self.router is None
        blocks = choose(self.model, self.optimizer, [*steps.values()]) if alone else None
        if blocks is None:
            self._carry_out(steps)
            return self.tracer.trace
        with few(self.model, self.optimizer, self.tracer, blocks) as cuts:
            self._carry_out(steps)
        return grown(self.tracer.trace, cuts, blocks)

    def _steps(self, brief: bool) -> dict[str, int]:
        """The clock of each kind of step that is carried out."""
        steps = dict(clocks(self.optimizer))
        self.tracer.trace.refreshes = refreshed_share(self.optimizer, steps)
        if brief and REFRESH in steps:
            del steps[ORDINARY]
        return steps

    def _carry_out(self, steps: dict[str, int]) -> None:
        with self.tracer, _without_collector():
            for phase, clock in steps.items():
                self.tracer.begin(phase)
                before = self._bus()
                self._step(clock)
                there, back = (now - then for now, then in zip(self._bus(), before, strict=True))
                self.moved[phase] = there, back
            self.tracer.begin(EVALUATION)
            self._evaluate()
        self.tracer.close()

    def time_steps(self, count: int) -> list[float]:
        """Seconds of so many ordinary steps, after the first one; nothing is traced."""
        self._step(0)
        clock = dict(clocks(self.optimizer))[ORDINARY]
        return [self._timed(clock) for _ in range(count)]

    def _timed(self, clock: int) -> float:
        start = time.perf_counter()
        self._step(clock)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def hosts(self) -> list[Host]:
        """Where tensors wait: blocks of weights, and sums of gradients."""
        blocks = streamed(self.model)
        weights = None if blocks is None else blocks.host
        return [each for each in (weights, self.optimizer.host) if each is not None]

    def _bus(self) -> tuple[int, int]:
        return sum(each.fetched for each in self.hosts()), sum(each.sent for each in self.hosts())

    def _step(self, clock: int) -> None:
        for group in self.optimizer.param_groups:
            group["clock"] = clock
        train = self.recipe.train
        size = train.micro_batch_size
        batch = skipping(self._batch(size * self.micro_batches), train.position_skips, train.seed, clock)
        objective = Objective(train.z_loss, self.extra, self.router)
        train_step(self.model, self.optimizer, batch, size, self.recipe.optim.max_grad_norm, objective)

    def _evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad():
            batch_loss(self.model, split_head, self._batch(self.recipe.scored_together), Objective(extra=self.extra))
        self.model.train()

    def _batch(self, rows: int) -> Batch:
        shape = (rows, self.recipe.data.max_length)
        ids = torch.randint(self.vocabulary, shape, generator=torch.Generator().manual_seed(0))
        return fullest_batch(self.recipe, ids)


def clocks(optimizer: GaLoreAdamW) -> Iterator[tuple[str, int]]:
    """(kind of step, optimizer steps taken before it): the refresh is of the largest matrices that share a step."""
    yield FIRST, 0
    due: dict[int, int] = {}
    for slot in optimizer.projected:
        for clock in range(1, 2 * slot.schedule.gap + 1):
            due[clock] = due.get(clock, 0) + slot.parameter.numel() * slot.schedule.due(clock)
    yield ORDINARY, min(due, key=lambda clock: due[clock], default=1)
    if due:
        yield REFRESH, max(due, key=lambda clock: due[clock])


def refreshed_share(optimizer: GaLoreAdamW, steps: Mapping[str, int]) -> float:
    """Share of what the refresh of `steps` has above the ordinary step that a step has in the mean, by elements.

    With more matrices than the gap has steps, the ordinary step refreshes some of them, too.
    """
    slots = optimizer.projected
    least, most = (
        sum(slot.parameter.numel() for slot in slots if slot.schedule.due(steps[phase]))
        for phase in (ORDINARY, REFRESH if REFRESH in steps else ORDINARY)
    )
    mean = sum(slot.parameter.numel() / slot.schedule.gap for slot in slots)
    return max(0.0, (mean - least) / (most - least)) if most > least else 0.0


def _embedded(model: Any) -> int:
    """Token ids that the model has a row for."""
    return int(model.get_input_embeddings().weight.shape[0])


def _watch_gradients(model: nn.Module, tracer: Tracer) -> None:
    def seen(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracer.label("gradients", [parameter.grad])

    _on_gradient(model.parameters(), seen)


def _watch_optimizer(optimizer: GaLoreAdamW, tracer: Tracer) -> None:
    """Label what the optimizer holds, as it comes: sums in the backward, moments and projectors in the step."""

    def held(*_: object) -> None:
        for category, tensor in optimizer.tensors():
            tracer.label(category, [tensor])

    take = optimizer.take

    def watched(slot: FullSlot, gradient: Gradient) -> None:
        take(slot, gradient)
        for category, tensor in slot.tensors():
            tracer.label(category, [tensor])

    optimizer.take = watched  # type: ignore[method-assign]
    optimizer.register_step_pre_hook(held)
    optimizer.register_step_post_hook(held)


def _on_gradient(parameters: Iterable[Tensor], call: object) -> None:
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(call)  # type: ignore[no-untyped-call]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Storages die when their last reference does, never by the garbage collector's chance."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
