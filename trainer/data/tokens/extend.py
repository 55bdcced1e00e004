"""A tokenizer as its recipe completes it: with the tokens of `model.new_tokens`, and the chat template of the run."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken

from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.chattemplate import chosen_template, ensure_template
from galore.trainer.data.tokens.tokenizer import id_bound, require_room
from galore.trainer.recipe.schema.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def extend(
    tokenizer: PreTrainedTokenizerBase, recipe: Recipe, base_dir: Path, tell: Callable[[str], object] = str
) -> dict[str, int]:
    """Give `tokenizer` what the recipe adds to it, in place; the tokens it did not know, with their ids.

    A new token that the chat template writes is a special one, which decoded answers leave out; others are words.
    `tell` hears of tokens of the template that the tokenizer cuts into several.

    Raises:
        UserError: no room for the tokens in `model.vocab_size`, or no template where the recipe names one.
    """
    chosen = chosen_template(recipe.data, base_dir)
    if recipe.data.instruct:
        ensure_template(tokenizer, chosen)
    added = add_tokens(tokenizer, recipe.model.tokens_to_add)
    require_room(recipe.model, tokenizer)
    if absent := [token for token in chosen.tokens if token not in _whole(tokenizer)] if chosen else []:
        tell(
            f"data.chat_template: {recipe.data.chat_template} writes {' and '.join(absent)}, which this tokenizer cuts into "
            f"several tokens each; {setting(absent)} makes each one"
        )
    return added


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> dict[str, int]:
    """Give `tokenizer` those of the tokens that it does not have, in place; their ids.

    Raises:
        UserError: its vocabulary leaves out numbers, so that a new token would take the id of another.
    """
    before, known, template = id_bound(tokenizer), tokenizer.get_vocab(), str(tokenizer.chat_template)
    whole = _whole(tokenizer)
    for special, some in itertools.groupby(
        (each for each in tokens if each not in whole), lambda each: each in template
    ):
        tokenizer.add_tokens([AddedToken(e, special=special, normalized=False) for e in some], special_tokens=special)
    ids = tokenizer.get_vocab()
    added = {token: int(ids[token]) for token in tokens if token not in known}
    if sorted(added.values()) != list(range(before, before + len(added))):
        fix = "number its tokens from 0 on without a gap, or add them to its tokenizer.json"
        what = f"the tokenizer's ids reach to {before - 1:,} with gaps: a new token would be taken for another"
        raise UserError(what, where="model.new_tokens", fix=fix)
    return added


def _whole(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The tokens that are found in a text before it is cut into pieces."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values()}


def setting(tokens: Sequence[str]) -> str:
    """The override that names new tokens, as it is typed in a shell."""
    return f"model.new_tokens={shlex.quote(json.dumps(list(tokens), ensure_ascii=False, separators=(',', ':')))}"
