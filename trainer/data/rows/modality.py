"""Targets by modality: which token ids are text, which are codes of an image or a sound, and what each counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from galore.trainer.recipe.schema.model import TEXT, tokens_of
from galore.trainer.recipe.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Modalities:
    """`kinds`: of each token id its place in `names`, whose first is text. `weights`: of a target of each."""

    names: tuple[str, ...]
    kinds: Tensor  # (V,) int64, on the CPU
    weights: tuple[float, ...]

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, size: int) -> Self | None:
        """The kinds of `model.new_tokens` as `tokenizer` numbers them; None where all is text that counts once."""
        vocabulary, kinds = tokenizer.get_vocab(), torch.zeros(size, dtype=torch.int64)
        for number, (name, codes) in enumerate(recipe.model.modalities.items(), start=1):
            kinds[torch.tensor([vocabulary[token] for token in tokens_of(name, codes)])] = number
        return cls._with_weights(recipe, kinds)

    @classmethod
    def planned(cls, recipe: Recipe, ids: Tensor) -> Self | None:
        """Modalities of token ids before a tokenizer is there: of which kind they are does not matter to memory."""
        several = bool(recipe.model.modalities or recipe.train.loss_weights)
        return cls._with_weights(recipe, torch.zeros(int(ids.max()) + 1, dtype=torch.int64)) if several else None

    @classmethod
    def _with_weights(cls, recipe: Recipe, kinds: Tensor) -> Self | None:
        names, weights = (TEXT, *recipe.model.modalities), recipe.train.loss_weights
        if len(names) == 1 and not weights:
            return None
        return cls(names, kinds, tuple(weights.get(name, 1.0) for name in names))

    def of_targets(self, targets: Tensor) -> Tensor:
        """The kinds of token ids (n,) on the CPU, (n,)."""
        return self.kinds[targets]

    def weights_of(self, kinds: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What targets of these kinds count, (n,); None where each counts once."""
        if set(self.weights) == {1.0}:
            return None
        return torch.tensor(self.weights, dtype=dtype)[kinds]

    def counts(self, targets: Tensor) -> list[int]:
        """How many of token ids (n,) are of each kind, (M,)."""
        return torch.bincount(self.of_targets(targets), minlength=len(self.names)).tolist()
