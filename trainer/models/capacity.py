"""How many token ids and positions a model has room for."""

from __future__ import annotations

from transformers import PreTrainedConfig

from galore.trainer.errors import UserError

# number their positions from the padding token's id + 1
AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def check_capacity(config: PreTrainedConfig, vocab_size: int, max_length: int) -> None:
    """Refuse data that the model has no embedding rows or no positions for.

    Raises:
        UserError: with both numbers.
    """
    text = config.get_text_config()
    if text.vocab_size < vocab_size:
        raise UserError(
            f"the model embeds {text.vocab_size} token ids, but the tokenizer has {vocab_size}",
            where="model.vocab_size",
            fix=f"set model.vocab_size to at least {vocab_size}, or choose the model's own tokenizer",
        )
    positions = positions_of(config)
    if positions is not None and max_length > positions:
        raise UserError(
            f"sequences of {max_length} tokens do not fit the model's {positions} positions",
            where="data.max_length",
            fix=f"set data.max_length to {positions} or less",
        )


def positions_of(config: PreTrainedConfig) -> int | None:
    """Longest sequence, in tokens, the model is made for; None where it has no such limit."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - (text.pad_token_id + 1 if text.model_type in AFTER_PADDING else 0)
