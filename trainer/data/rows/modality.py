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


MARKS = 2  # begin and end, before the codes of a modality


@dataclass(frozen=True)
class Modalities:
    """`kinds`: of each token id its place in `names`, whose first is text. `weights`: of a target of each."""

    names: tuple[str, ...]
    kinds: Tensor  # (V,) int64, on the CPU
    codes: Tensor  # (V,) bool: whether it is a code, which begin and end of codes are not
    weights: tuple[float, ...]

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, size: int) -> Self | None:
        """The kinds of `model.new_tokens` as `tokenizer` numbers them; None where all is text that counts once."""
        vocabulary, kinds = tokenizer.get_vocab(), torch.zeros(size, dtype=torch.int64)
        is_code = torch.zeros(size, dtype=torch.bool)
        for number, (name, codes) in enumerate(recipe.model.modalities.items(), start=1):
            ids = torch.tensor([vocabulary[token] for token in tokens_of(name, codes)])
            kinds[ids], is_code[ids[MARKS:]] = number, True
        return cls._with_weights(recipe, kinds, is_code)

    @classmethod
    def planned(cls, recipe: Recipe, ids: Tensor) -> Self | None:
        """Modalities of token ids before a tokenizer is there; that 0 alone is a code does not matter to memory."""
        if not (recipe.model.modalities or recipe.train.loss_weights):
            return None
        kinds = torch.zeros(int(ids.max()) + 1, dtype=torch.int64)
        return cls._with_weights(recipe, kinds, torch.arange(len(kinds)) == 0)

    @classmethod
    def _with_weights(cls, recipe: Recipe, kinds: Tensor, codes: Tensor) -> Self | None:
        names, weights = (TEXT, *recipe.model.modalities), recipe.train.loss_weights
        if len(names) == 1 and not weights:
            return None
        return cls(names, kinds, codes, tuple(weights.get(name, 1.0) for name in names))

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
