"""How many token ids and positions a model has room for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

import psutil
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.common.library import WHERE, explained
from galore.trainer.data.tokens.extend import setting
from galore.trainer.recipe.schema.model import ModelSection

DEPTH = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
SIZES = (
    *("vocab_size", "hidden_size", "d_model", "n_embd", "intermediate_size", "d_ff", *DEPTH[:4]),
    *("num_attention_heads", "num_heads", "n_head", "num_key_value_heads", "num_kv_heads", "head_dim", "d_kv"),
)
MOST_NEW = 16  # tokens that a message names; more of them are those of another model
LAYER_OBJECTS = 32 * 1024  # bytes that the Python objects of one layer take, weights aside

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


class TokenFacts(NamedTuple):
    """What a network is told of its tokenizer: token ids that `model.new_tokens` added, what any id is called, and the
    one that short rows are filled up with."""

    new: Collection[int] = ()
    called: Callable[[int], Any] = str
    pad: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, new: Mapping[str, int]) -> Self:
        return cls(new.values(), tokenizer.convert_ids_to_tokens, tokenizer.pad_token_id)


def check_capacity(
    config: PreTrainedConfig,
    vocab_size: int,
    max_length: int,
    rows: int | None = None,
    called: Callable[[int], Any] = str,
) -> None:
    """Refuse data that the model has no embedding rows or no positions for.

    Args:
        rows: of the embedding, where they will be more than the configuration says.
        called: what a token id is called.

    Raises:
        UserError: with both numbers.
    """
    text = config.get_text_config()
    rows = rows or text.vocab_size
    if rows < vocab_size:
        fix = (
            f"is it another model's? data.tokenizer=null takes this one's own; model.vocab_size={vocab_size} draws rows"
        )
        if vocab_size - rows <= MOST_NEW:
            fix = f"{setting([str(called(each)) for each in range(rows, vocab_size)])} gives the tokens beyond it rows"
        what = f"the model embeds {rows} token ids, but the tokenizer has {vocab_size}"
        raise UserError(what, where="model.new_tokens", fix=fix)
    require_positions(config, max_length)


def require_positions(config: PreTrainedConfig, max_length: int, where: str = "data.max_length") -> None:
    """Raise UserError for sequences, as long as the key `where` says, that a model has too few positions for."""
    positions = positions_of(config)
    if positions is not None and max_length > positions:
        raise UserError(
            f"sequences of {max_length} tokens do not fit the model's {positions} positions",
            where=where,
            fix=f"set {where} to {positions} or less",
        )


def positions_of(config: PreTrainedConfig) -> int | None:
    """Longest sequence, in tokens, the model is made for; None where it has no such limit."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":  # of which it is the length of training
        return int(positions * rope["factor"])
    return positions - (text.pad_token_id + 1 if text.model_type in AFTER_PADDING else 0)


def rows_wanted(section: ModelSection, config: PreTrainedConfig, vocab_size: int) -> int | None:
    """Rows of the embedding that a recipe asks for, None for no number in particular.

    Where `model.new_tokens` are named without `model.vocab_size`, they are as many as the tokenizer has ids, unless the
    stored embedding has spare ones.
    """
    if section.vocab_size is not None or not section.new_tokens:
        return section.vocab_size
    return max(vocab_size, int(config.get_text_config().vocab_size))


def new_rows(section: ModelSection, config: PreTrainedConfig, vocab_size: int, tokens: TokenFacts) -> list[int]:
    """Where `model.new_tokens` are named, the token ids that were added to the tokenizer, and those that the stored
    embedding has no row for."""
    stored = int(config.get_text_config().vocab_size)
    return sorted({*tokens.new, *range(stored, vocab_size)}) if section.new_tokens else []


def grow_vocabulary(model: PreTrainedModel, rows: int | None, seed: int, new: Sequence[int] = ()) -> None:
    """Rows of the embedding and the head for token ids up to `rows`, in place, the new ones drawn from `seed`.

    Args:
        new: token ids that the model was never trained on, ascending: their rows start at the mean of those before.
    """
    if rows is not None and rows > model.config.get_text_config().vocab_size:
        with torch.random.fork_rng(devices=[]), explained(model.name_or_path, "draw more token embeddings for"):
            torch.default_generator.manual_seed(seed)
            model.resize_token_embeddings(rows, mean_resizing=False)
    if new:
        _start_at_mean(model, list(new))


@torch.no_grad()
def _start_at_mean(model: PreTrainedModel, new: list[int]) -> None:
    """The rows `new` of the embedding and of an untied head, its bias included, as the mean of the rows before them."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tensors = [embedding.weight, getattr(head, "weight", None), getattr(head, "bias", None)]
    for tensor in {id(tensor): tensor for tensor in tensors if tensor is not None}.values():
        if len(tensor) == len(embedding.weight):
            tensor[new] = tensor[: new[0]].mean(dim=0, dtype=torch.float32).to(tensor.dtype)


def refuse_fewer_rows(config: PreTrainedConfig, rows: int | None, source: str) -> None:
    """Raise UserError if `rows` of the embedding would cut off some of those that are stored."""
    stored = config.get_text_config().vocab_size
    if rows is not None and rows < stored:
        raise UserError(
            f"{source} embeds {stored} token ids, the recipe says {rows}",
            where="model.vocab_size",
            fix="leave model.vocab_size out: rows are added for model.new_tokens; or draw fresh weights with model.random_init: true",
        )


def require_memory(config: PreTrainedConfig, weight_bytes: int) -> None:
    """Refuse a model that this machine cannot hold, before any of it is built.

    Args:
        weight_bytes: bytes of one weight; 0 where none gets memory, and the layers' own objects are all there is.

    Raises:
        UserError: with both sizes.
    """
    layers, weights = _at_least(config)
    _require(layers, weights, weight_bytes)


def require_sizes(values: Mapping[str, Any], source: str) -> None:
    """Raise UserError if a size of the configuration, as it is read, is zero or below, or heads cannot share others."""
    for name, value in values.items():
        if isinstance(value, dict):
            require_sizes(value, source)
        elif name in SIZES and isinstance(value, int) and value < 1:
            raise _unfit(f"{name} is {value}", source)
    heads, shared = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise _unfit(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}", source)


def _unfit(what: str, source: str) -> UserError:
    return UserError(
        f"{what} in the config.json of {source}",
        where=WHERE,
        fix="write the number that the stored weights have, or fetch the file again",
    )


def require_layers(values: Mapping[str, Any]) -> None:
    """Refuse such a depth before a configuration is built: some make a list as long as the model is deep."""
    for name, value in values.items():
        if isinstance(value, dict):
            require_layers(value)
        elif name in DEPTH and isinstance(value, int):
            _require(value, 0, 0)


def _require(layers: int, weights: int, weight_bytes: int) -> None:
    needed, there = layers * LAYER_OBJECTS + weights * weight_bytes, psutil.virtual_memory().total
    if needed > there:
        many = f"{layers:,} layers" + (f" and {weights:,} weights or more" if weights else "")
        raise UserError(
            f"a model of {many} takes {size(needed)}, this machine has {size(there)}",
            where="model",
            fix="choose a smaller model",
        )


def _at_least(config: PreTrainedConfig) -> tuple[int, int]:
    """Layers and weights that the dimensions of `config` cannot do without; layers that share weights count once."""
    text = config.get_text_config()
    layers, width, inner, rows = (
        max(0, value) if isinstance(value := getattr(text, name, 0), int) else 0
        for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    )
    own = getattr(text, "num_hidden_groups", layers)
    return layers, rows * (getattr(text, "embedding_size", None) or width) + own * (
        2 * width * width + 2 * width * inner
    )
