"""Build the network of a recipe: a LLaMA or a RetNet from its dimensions, or any causal language model by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from galore.trainer.common.errors import UserError
from galore.trainer.common.library import WHERE, explained
from galore.trainer.models.attention import attention_on, check_attention
from galore.trainer.models.capacity import (
    TokenFacts,
    check_capacity,
    grow_vocabulary,
    new_rows,
    refuse_fewer_rows,
    require_memory,
    rows_wanted,
)
from galore.trainer.models.linears import int8_linears
from galore.trainer.models.materialize import draw_weights
from galore.trainer.models.pretrained import load_pretrained, locate, read_config, skeleton
from galore.trainer.models.retnet.configuration_retnet import RetNetConfig
from galore.trainer.models.rope.rotary import hold_length
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.optim.int8_linear import to_int8
from galore.trainer.recipe.architectures import Architecture
from galore.trainer.recipe.schema.model import ModelSection


def build_decoder(
    section: ModelSection,
    vocab_size: int,
    *,
    device: str,
    made_on: str | None = None,
    seed: int,
    max_length: int,
    base_dir: Path,
    in_int8: Sequence[str] = (),
    tokens: TokenFacts = TokenFacts(),  # noqa: B008 - it cannot change
) -> PreTrainedModel:
    """The model of a recipe on `device`, weights in `section.dtype`, in training mode, key/value cache off.

    Random weights depend on `seed` alone: drawn in float32 on the CPU and cast, so that runs in either type and on any
    device start alike. The global random state is left as it was. On `device="meta"` nothing is allocated or loaded.

    Args:
        made_on: where the weights are left, if not on `device`, whose kernels the model is made for.
        vocab_size: number of token ids of the tokenizer; the embedding must have as many rows at least.
        max_length: longest sequence, in tokens, that the run will feed.
        base_dir: folder that a relative `section.name_or_path` is seen from.
        in_int8: parts of the paths of linear layers whose weights are kept in 8 bits; they never lie on `device`
            otherwise.
        tokens: of the tokenizer.

    Raises:
        UserError: the model cannot be read or trained, its vocabulary or positions are too few for the data, or the
            attention kernel cannot run on `device`.
    """
    made_on = made_on or device
    if device != "meta":
        check_attention(section.attn_implementation, device, section.dtype)
    source = locate(section.name_or_path, base_dir) if section.name_or_path else None
    config = _config(section, vocab_size, source)
    if section.rope is not None:
        scale_rope(config, section.rope, base_dir, built=section.has_own_dimensions)
    rows, fresh = rows_wanted(section, config, vocab_size), new_rows(section, config, vocab_size, tokens)
    check_capacity(config, vocab_size, max_length, rows, tokens.called)
    if device != "meta":
        require_memory(config, getattr(torch, section.dtype).itemsize)
    if source is None or section.random_init or device == "meta":
        config.get_text_config().vocab_size = rows or config.get_text_config().vocab_size
        model = _from_config(config, section, device=device, made_on=made_on, seed=seed, in_int8=in_int8)
    else:
        model = _from_weights(source, config, section)
        grow_vocabulary(model, rows, seed, fresh)
        _kept_in_int8(model, in_int8)
        model = model.to(made_on)
    if source is not None and device != "meta" and _runs_on(made_on, device, section):
        _refuse_bidirectional(model, source)
    hold_length(model, max_length)
    model.config.use_cache = False
    return model.train()


def refuse_encoder(section: ModelSection, base_dir: Path) -> None:
    """Raise UserError for a `name_or_path` that is an encoder by its configuration; reads nothing else of it."""
    if section.name_or_path is not None:
        source = locate(section.name_or_path, base_dir)
        _refuse_encoder(read_config(source, section.revision), source)


def _refuse_encoder(config: PreTrainedConfig, source: str) -> None:
    """BERT and its kin load as causal models too; unless told to be decoders, they see the token they are asked for."""
    ambiguous = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() & MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    if ambiguous and getattr(skeleton(config, "eager").config, "is_decoder", None) is False:
        raise _bidirectional(config, source)


def llama_config(section: ModelSection, vocab_size: int) -> LlamaConfig:
    """The LLaMA of the recipe's dimensions; its special tokens are the tokenizer's business, so it names none."""
    return LlamaConfig(
        **_dimensions(section, vocab_size),
        num_key_value_heads=section.num_key_value_heads,
        max_position_embeddings=section.max_position_embeddings,
        rms_norm_eps=section.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": section.rope_theta},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def retnet_config(section: ModelSection, vocab_size: int) -> RetNetConfig:
    """The RetNet of the recipe's dimensions."""
    return RetNetConfig(
        **_dimensions(section, vocab_size), norm_eps=section.rms_norm_eps, rope_theta=section.rope_theta
    )


def _dimensions(section: ModelSection, vocab_size: int) -> dict[str, Any]:
    """What any network that is built takes from the recipe, as transformers calls it."""
    shared = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    shared += ["initializer_range", "tie_word_embeddings"]
    return {"vocab_size": section.vocab_size or vocab_size, **{name: getattr(section, name) for name in shared}}


def public_config(architecture: Architecture) -> PreTrainedConfig:
    """The configuration of a published network, which names no special tokens: they are the tokenizer's business."""
    config: PreTrainedConfig = AutoConfig.for_model(
        architecture.model_type, **architecture.config, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    return config


def _config(section: ModelSection, vocab_size: int, source: str | None) -> PreTrainedConfig:
    if section.published is not None:
        return public_config(section.published)
    if source is None:
        return (retnet_config if section.architecture == "retnet" else llama_config)(section, vocab_size)
    config = read_config(source, section.revision)
    _refuse_encoder(config, source)
    if not section.random_init:
        refuse_fewer_rows(config, section.vocab_size, source)
    return config


def _from_config(
    config: PreTrainedConfig, section: ModelSection, *, device: str, made_on: str, seed: int, in_int8: Sequence[str]
) -> PreTrainedModel:
    dtype = getattr(torch, section.dtype)
    model = skeleton(config, attention_on(section, device))
    if device == "meta":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
        _kept_in_int8(model, in_int8)
    else:
        chosen = int8_linears(model, in_int8)
        draw_weights(model, dtype=dtype, device=made_on, seed=seed, drawn=lambda m: to_int8(m) if m in chosen else None)
    model.config.dtype = dtype
    return model


def _runs_on(made_on: str, device: str, section: ModelSection) -> bool:
    """Whether the kernels that the model is made for run where its weights are left."""
    return made_on == device or section.attn_implementation in (None, "sdpa", "eager")


def _from_weights(source: str, config: PreTrainedConfig, section: ModelSection) -> PreTrainedModel:
    return load_pretrained(
        source,
        config,
        revision=section.revision,
        dtype=getattr(torch, section.dtype),
        attn_implementation=section.attn_implementation,
    )


def _kept_in_int8(model: PreTrainedModel, patterns: Sequence[str]) -> None:
    for module in int8_linears(model, patterns):
        to_int8(module)


@torch.no_grad()
def _refuse_bidirectional(model: PreTrainedModel, source: str) -> None:
    """What its configuration does not tell, its logits do; or its first forward, that sizes do not go together."""
    model.eval()
    ids = torch.tensor([[1, 2], [1, 3]], device=model.device)
    with explained(source, "run"):
        first = model(input_ids=ids, use_cache=False).logits[:, 0].float()  # (2, V), same past, different future
    if not torch.allclose(first[0], first[1], rtol=1e-3, atol=1e-3):
        raise _bidirectional(model.config, source)


def _bidirectional(config: PreTrainedConfig, source: str) -> UserError:
    return UserError(
        f"{source} ({config.model_type}) lets a position see the tokens after it: it is not a causal model",
        where=WHERE,
        fix="choose a decoder, such as LLaMA, Qwen or GPT-2; an encoder is for `galore finetune-glue`",
    )
