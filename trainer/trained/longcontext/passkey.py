"""Passkey retrieval: a number hidden in a long text of nothing, and asked for at its end  (arXiv 2305.16300)."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from galore.trainer.common.errors import UserError
from galore.trainer.data.score import scoring
from galore.trainer.data.tokens.tokenizer import prompt_of
from galore.trainer.models.head import split_head
from galore.trainer.models.rope.rotary import rotating

INTRO = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = (0, 25, 50, 75, 100)  # percent of the filler that stands before the number

Lines = int | Sequence[str]
"""So many lines of filler, or lines of one's own."""

Tell = Callable[[int, int], None]
"""Told how many are asked, and of how many."""


def passkey_text(key: int, before: Lines, after: Lines) -> str:
    """A text with these lines before and after the line of `key`; its last word is the key."""
    hidden = f"The pass key is {key}. Remember it. {key} is the pass key."
    question = f"What is the pass key? The pass key is {key}"
    return "\n".join([INTRO, *_lines(before), hidden, *_lines(after), question])


def _lines(asked: Lines) -> Sequence[str]:
    return [FILLER] * asked if isinstance(asked, int) else asked


def passkey_row(tokenizer: PreTrainedTokenizerBase, key: int, before: Lines, after: Lines) -> dict[str, list[int]]:
    """Tokens of that text as a document begins, and as labels those that say the key again, else -100.

    Rows of it, of random keys, teach a model the task (`data.tokens_field`, `data.labels_field`). With lines of many
    lengths the key is at any distance, and has to be found by what stands before it.
    """
    text = passkey_text(key, before, after)
    ids = prompt_of(tokenizer, text)
    labels = [-100] * len(ids)
    for again in [*re.finditer(f" {key}", text)][1:]:
        start, end = (_alike(ids, prompt_of(tokenizer, text[:at])) for at in again.span())
        labels[start:end] = ids[start:end]
    return {"ids": ids, "labels": labels}


def passkeys(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    tries: int,
    seed: int,
    tell: Tell = lambda *_: None,
) -> list[dict[str, Any]]:
    """The share of keys that `model` finds greedily, by length and depth: {length, by_depth, accuracy, asked}.

    A text has at most `length` tokens, the key included, and less than a line of filler fewer.

    Raises:
        UserError: a length has no room for the question.
    """
    rows, done = list[dict[str, Any]](), 0
    with scoring(model):
        for length in lengths:
            by_depth = dict[str, float]()
            for depth in DEPTHS:
                found = 0
                for number in range(tries):
                    key = random.Random(f"{seed} {length} {depth} {number}").randrange(10_000, 100_000)
                    prompt = _prompt(tokenizer, key, length, depth)
                    with rotating(model, length=length):
                        found += _finds(model, *prompt)
                    tell(done := done + 1, len(lengths) * len(DEPTHS) * tries)
                by_depth[str(depth)] = found / tries
            accuracy = sum(by_depth.values()) / len(DEPTHS)
            asked = tries * len(DEPTHS)
            rows.append({"length": length, "by_depth": by_depth, "accuracy": accuracy, "asked": asked})
    return rows


def _prompt(tokenizer: PreTrainedTokenizerBase, key: int, length: int, depth: int) -> tuple[Tensor, int]:
    """Ids (1, s) with the key at their end, and how many of them are the key's."""

    def text(lines: int) -> str:
        before = round(lines * depth / 100)
        return passkey_text(key, before, lines - before)

    def ids(lines: int) -> list[int]:
        return prompt_of(tokenizer, text(lines))

    empty, line = len(ids(0)), len(ids(2)) - len(ids(1))
    if empty > length:
        what = f"{length} tokens have no room for the question, which takes {empty} with this tokenizer"
        raise UserError(what, where="--passkey", fix=f"ask at {empty} or more")
    lines = (length - empty) // max(1, line)
    while lines and len(ids(lines)) > length:
        lines -= 1
    whole = ids(lines)
    prompt = _alike(whole, prompt_of(tokenizer, text(lines).removesuffix(f" {key}")))
    return torch.tensor([whole]), len(whole) - prompt


def _alike(whole: Sequence[int], part: Sequence[int]) -> int:
    """How many tokens of a text stand where its beginning alone has them."""
    pairs = zip(whole, part, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(part))


def _finds(model: PreTrainedModel, ids: Tensor, answer: int) -> bool:
    """Whether each token of the answer is the likeliest: what greedy generation would write."""
    ids = ids.to(model.device)
    head = split_head(model)
    if head is None:
        logits = model(input_ids=ids, use_cache=False).logits[0, -answer - 1 : -1]
    else:
        logits = head.hidden(ids)[0, -answer - 1 : -1] @ head.weight.T
    return bool((logits.argmax(-1) == ids[0, -answer:]).all())
