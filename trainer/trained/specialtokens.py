"""The special tokens of an exported model: what its configurations say of BOS, EOS and padding."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from galore.trainer.data.tokens.chat import stop_tokens
from galore.trainer.data.tokens.chattemplate import ensure_template
from galore.trainer.models.capacity import AFTER_PADDING
from galore.trainer.models.classifier import head_modules, pad_with
from galore.trainer.recipe.schema.recipe import Recipe


def name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe | None) -> None:
    """Let generation stop at the tokenizer's end of text, and a classifier know what rows are padded with.

    A model built from dimensions names no such tokens, one with another tokenizer than its own those of its own, whose
    ids are words of the other.
    """
    other = recipe is not None and recipe.data.tokenizer not in (None, recipe.model.name_or_path)
    special = _special(tokenizer) if other else None
    generation = model.generation_config if model.can_generate() else None
    for config in (model.config, *([generation] if generation is not None else [])):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if name != "pad_token_id" or not _counts_from_padding(config):
                setattr(config, name, _chosen(getattr(config, name, None), getattr(tokenizer, name), special))
    if head_modules(model) and tokenizer.pad_token_id is not None:
        pad_with(model.config, tokenizer.pad_token_id)
    if recipe is not None and recipe.data.instruct:
        ensure_template(tokenizer)
        _stop_after_answers(model.generation_config, stop_tokens(tokenizer))


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    marked = (token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    return {*tokenizer.all_special_ids, *marked}


def _chosen(stored: Any, own: int | None, special: set[int] | None) -> Any:
    """What a configuration is to say: `stored`, or what the tokenizer has.

    Args:
        special: tokens of a tokenizer that is not the one `stored` is of; `own` is first then, and of several ends of
            text those stay that are special.
    """
    if special is None:
        return own if stored is None else stored
    known = stored if isinstance(stored, list) else [stored]
    left = list(dict.fromkeys(token for token in (own, *known) if token is not None and token in special))
    return left if len(left) > 1 and isinstance(stored, list) else next(iter(left), None)


def _counts_from_padding(config: Any) -> bool:
    """Whether the network numbers its positions from its own padding token, whatever rows are filled up with."""
    return (
        isinstance(config, PreTrainedConfig)
        and config.pad_token_id is not None
        and config.get_text_config().model_type in AFTER_PADDING
    )


def _stop_after_answers(config: Any, tokens: list[int]) -> None:
    """The template may end a turn otherwise than the model it is used with ended its texts."""
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = list(dict.fromkeys([*(token for token in known if token is not None), *tokens]))
