"""What a second loss is: its recipe and model, what it is divided by, and its sum over the rows of a forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import Seen, TokenBatch
from galore.trainer.losses.watch import Watch
from galore.trainer.recipe.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class About:
    """The run that a loss is made for. `model` is on `device`, which is meta where memory is predicted.

    Args:
        vocabulary: one more than the largest token id that is fed.
        tokenizer: None where memory is predicted.
    """

    recipe: Recipe
    model: nn.Module
    device: str
    base_dir: Path
    vocabulary: int
    tokenizer: PreTrainedTokenizerBase | None = None


class ExtraLoss(ABC):
    """A loss beside the cross-entropy. What it adds to the objective is `weight` · Σ `summed` / `count`.

    A class of its own gets `About` and says with `sees` what it looks into: "attention" or "hidden", of the blocks of
    `extra_loss.layers`. A `module`, if it sets one, is trained and saved with the model, and left out of exports.
    """

    sees: tuple[str, ...] = ()
    module: nn.Module | None = None

    def __init__(self, about: About) -> None:
        self.about, self.settings = about, about.recipe.extra_loss
        self.weight = self.settings.weight
        self.watch = Watch(about.model, self.settings.layers or [-1], self.sees) if self.sees else None

    def count(self, batch: TokenBatch) -> int:
        """What the sum over a batch is divided by: its targets."""
        return batch.targets

    @property
    def counts_targets(self) -> bool:
        """Whether it is; what else is counted may depend on how rows are padded."""
        return type(self).count is ExtraLoss.count

    def watching(self, batch: TokenBatch) -> AbstractContextManager[Any]:
        """A context in which the model's forward pass is watched."""
        return nullcontext() if self.watch is None else self.watch.during()

    @abstractmethod
    def summed(self, seen: Seen) -> Tensor:
        """The sum over the rows of a forward pass, (), fp32, with its gradient."""

    def told(self) -> list[str]:
        """Lines that say what it does."""
        name, weight = self.settings.name, self.settings.weight
        return [f"extra loss: {name}, {weight:g} times its mean beside the cross-entropy"]


def on_device(module: nn.Module, device: str) -> nn.Module:
    """A small module of a loss where the model is; its weights do not depend on where that is."""
    return module.to(torch.device(device))


def refused(what: str, key: str, fix: str) -> UserError:
    """An error about a key of section extra_loss."""
    return UserError(what, where=f"extra_loss.{key}", fix=fix)
