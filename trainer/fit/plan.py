"""What a run comes to: tokens, FLOPs, disk; time and energy as predicted, or at an assumed share of a card's peak."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from galore.trainer.data.tokens.store import token_type
from galore.trainer.machine.gpus import gpu_called
from galore.trainer.machine.hardware import gpu_peak

if TYPE_CHECKING:
    from galore.trainer.parameters import Costs
    from galore.trainer.recipe.schema.recipe import Recipe
    from galore.trainer.recipe.schema.train import TrainSection
    from galore.trainer.time.estimate import Estimate

ASSUMED = (0.3, 0.5)  # of a card's peak, all that is computed counted, where no step is predicted: an assumption
KWH = 3.6e6  # joules

Range = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """A run in numbers; None is what cannot be known without its data, or of that card.

    Attributes:
        tokens_per_step: padding included; of a task, and where rows are `cut` to what they need, at most.
        flops_per_token: forward, backward and what is recomputed; the optimizer's own products left out.
        checkpoints: on the disk at a time: those that are kept, and the one being written.
        save_steps: from one to the next; None where the end alone is saved.
        cache_bytes_per_token: of the tokenized corpus; None where none is kept.
        peak: published FLOP/s of the card in the type of the weights. `watts`: published power limit of its board.
        step: how long a step is predicted to take; None where it was not traced, or cannot be.
        cards: that work at the same time; no time has what they send in it.
    """

    card: str
    steps: int | None
    epochs: float | None
    tokens_per_step: int
    cut: bool
    flops_per_token: int | None
    checkpoint_bytes: int
    checkpoints: int
    save_steps: int | None
    cache_bytes_per_token: int | None
    peak: float | None
    watts: int | None
    step: Estimate | None = None
    cards: int = 1

    @property
    def tokens(self) -> int | None:
        """Tokens of the whole run."""
        return None if self.steps is None else self.steps * self.tokens_per_step

    @property
    def flops(self) -> int | None:
        """FLOPs of the whole run."""
        return None if self.tokens is None or self.flops_per_token is None else self.tokens * self.flops_per_token

    @property
    def disk_bytes(self) -> int:
        """Bytes of all checkpoints that exist at a time."""
        return self.checkpoints * self.checkpoint_bytes

    @property
    def seconds_unsaved(self) -> Range | None:
        """(least, most) from one checkpoint to the next, or to the end: what a power cut costs at most."""
        steps = [each for each in (self.save_steps, self.steps) if each is not None]
        return self.seconds_of(min(steps) * self.tokens_per_step) if steps else None

    @property
    def seconds(self) -> Range | None:
        """(least, most) of the whole run."""
        return self.seconds_of(self.tokens)

    def seconds_of(self, tokens: int | None) -> Range | None:
        """(least, most) of so many tokens."""
        if tokens is not None and self.step is not None:
            slowest, fastest = self.step.tokens_per_second
            return tokens / fastest, tokens / slowest
        if tokens is None or self.flops_per_token is None or self.peak is None:
            return None
        at_peak = tokens * self.flops_per_token / (self.peak * self.cards)
        return at_peak / ASSUMED[1], at_peak / ASSUMED[0]

    @property
    def kilowatt_hours(self) -> Range | None:
        """(least, most) of the cards alone, at its power limit all the time."""
        if self.seconds is None or self.watts is None:
            return None
        of_all = self.cards * self.watts / KWH
        return self.seconds[0] * of_all, self.seconds[1] * of_all

    def as_json(self) -> dict[str, object]:
        """All of it, with the shares that are assumed where no step is predicted."""
        derived = ("tokens", "flops", "disk_bytes", "seconds_unsaved", "seconds", "kilowatt_hours")
        found = {name: getattr(self, name) for name in (*(each.name for each in fields(self)), *derived)}
        predicted = None if self.step is None else self.step.as_json()
        return {**found, "step": predicted, "assumed_share_of_peak": None if self.step else ASSUMED}


def plan(recipe: Recipe, costs: Costs, card: str, step: Estimate | None = None, cards: int = 1) -> Plan:
    """The run of `recipe` on GPUs that the driver calls `card`, whose steps take as long as `step` says.

    Reads no data.
    """
    train = recipe.train
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[recipe.model.dtype]
    return Plan(
        card=card,
        steps=train.max_steps,
        epochs=train.num_train_epochs if train.max_steps is None else None,
        tokens_per_step=train.global_batch_size * recipe.data.max_length,
        cut=recipe.data.packing == "paper" and recipe.data.task is None,
        flops_per_token=costs.flops_per_token,
        checkpoint_bytes=costs.checkpoint_bytes,
        checkpoints=_checkpoints(train),
        save_steps=train.save_steps,
        cache_bytes_per_token=_cached(recipe, costs.vocabulary),
        peak=gpu_peak(card, dtype).flops_per_second,
        watts=known.watts if (known := gpu_called(card)) else None,
        step=step,
        cards=cards,
    )


def _checkpoints(train: TrainSection) -> int:
    """A run saves at its end, too, and what is best where it is asked to; the oldest goes after a newer one came."""
    every, most = 1 if train.save_best else train.save_steps, train.save_total_limit + train.save_best + 1
    if every is None:
        return 1
    return most if train.max_steps is None else min(-(-train.max_steps // every), most)


def _cached(recipe: Recipe, vocabulary: int) -> int | None:
    """Bytes of a token in the cache: a stream keeps none; of instructions one byte says whether it is a target."""
    if recipe.data.source == "glue" or recipe.streams(recipe.data):
        return None
    return int(token_type(vocabulary).itemsize) + recipe.data.examples
