"""Rows that are tokens already, or codes between texts: checked against vocabulary and maps, taken as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from galore.trainer.data.text.quality import BadRow
from galore.trainer.data.tokens.chat import Example
from galore.trainer.data.tokens.tokenize import encode, encoder
from galore.trainer.data.tokens.tokenizer import id_bound
from galore.trainer.recipe.schema.model import TEXT, token_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class GivenTokens:
    """Turns what `shapes.tokens_of_row` wrote into documents or examples; no token is added to an example."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, codes: Tensor | None = None) -> None:
        """`codes`, (V,) bool: which ids are codes, where the numbers beside a row have to be maps of its codes."""
        self._codes, self.misfits = codes, 0
        self._bound, self._eos = id_bound(tokenizer), tokenizer.eos_token_id
        self._vocabulary, self._backend = tokenizer.get_vocab(), encoder(tokenizer)

    def documents(self, texts: Sequence[str]) -> list[list[int] | BadRow]:
        """The ids of each, without the EOS that ends it: a store of documents puts one there."""
        found = [self._ids(json.loads(text)) for text in texts]
        ended = (isinstance(ids, list) and len(ids) > 1 and ids[-1] == self._eos for ids in found)
        return [ids[:-1] if cut and isinstance(ids, list) else ids for ids, cut in zip(found, ended, strict=True)]

    def encode(self, texts: Sequence[str], places: Sequence[str]) -> Iterator[Example | BadRow]:
        """Examples whose targets are those of the row, but for the first, which nothing predicts."""
        for text in texts:
            value = json.loads(text)
            ids = self._ids(value)
            if isinstance(ids, BadRow):
                yield ids
                continue
            targets = np.array([mark == "1" for mark in value.get("targets", "1" * len(ids))])
            targets[:1] = False
            if not targets.any():
                yield BadRow("no_response", "no token in it is a target")
                continue
            example = Example(ids, targets, extra=value.get("extra"))
            yield self._misfit(example) or example

    def _misfit(self, example: Example) -> BadRow | None:
        """What is wrong with the numbers of an example, if they have to be maps and are none."""
        if self._codes is None or not example.extra:
            return None
        keys, queries = map_places(torch.tensor(example.ids), torch.from_numpy(example.targets), self._codes)
        count = len(example.extra)
        if are_maps(count, keys, queries):
            return None
        self.misfits += 1
        what = f"{count:,} numbers, no maps of {len(keys):,} codes for {len(queries):,} targets after them"
        can = len(keys) and len(queries)
        fix = f"give {len(keys):,} for all of them, or {len(keys):,} for each" if can else "leave them out"
        return BadRow("wrong_type", f"data.extra_field has {what}: {fix}")

    def _ids(self, value: dict[str, Any]) -> list[int] | BadRow:
        return self._checked(value["ids"]) if "ids" in value else self._of_parts(value["parts"])

    def _of_parts(self, parts: list[tuple[str, Any]]) -> list[int] | BadRow:
        """Texts as the tokenizer cuts them, and codes by the names of their tokens, between begin and end."""
        texts = iter(encode(self._backend, [content for kind, content in parts if kind == TEXT]))
        found = list[int]()
        for kind, content in parts:
            if kind == TEXT:
                found += next(texts)
                continue
            tokens = [token_of(kind, each) for each in ("begin", *content, "end")]
            if absent := next((each for each in tokens if each not in self._vocabulary), None):
                return BadRow("wrong_token", absent)
            found += [self._vocabulary[each] for each in tokens]
        return found

    def _checked(self, ids: list[int]) -> list[int] | BadRow:
        wrong = next((each for each in ids if not 0 <= each < self._bound), None)
        return ids if wrong is None else BadRow("wrong_token", f"{wrong}, of {self._bound:,}")


def map_places(ids: Tensor, targets: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in a row (n,) of the codes that its last target sees, (p,), and those that predict a target after all
    of these, (t,). What stands behind the last target does not count: it may be cut off."""
    at = targets.nonzero().squeeze(1)
    keys = codes[ids[: int(at[-1]) + 1 if len(at) else 0]].nonzero().squeeze(1)
    last = int(keys[-1]) if len(keys) else len(ids)
    return keys, at[at > last + 1] - 1


def are_maps(count: int, keys: Tensor, queries: Tensor) -> bool:
    """Whether so many numbers are one for each code, or such a list for each target, and as many more as were cut."""
    rows, rest = divmod(count, max(1, len(keys)))
    return bool(len(keys) and len(queries)) and not rest and (rows == 1 or rows >= len(queries))
