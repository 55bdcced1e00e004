"""Causal language models and classifiers from a local folder or the hub: safetensors only, never code of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from galore.trainer.checkpoint.exported import refuse_bare_checkpoint, require_as_exported
from galore.trainer.checkpoint.tensors import some
from galore.trainer.common.errors import UserError
from galore.trainer.common.library import WHERE, explained, refuse_gguf, refuse_unreadable
from galore.trainer.common.reading import means_a_path, require_plain_folder, user_path
from galore.trainer.machine.offline import spare_retries
from galore.trainer.models.capacity import require_layers, require_memory, require_positions, require_sizes
from galore.trainer.models.retnet import code  # noqa: F401 - it registers what it names
from galore.trainer.models.rope.rotary import leave_start
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.recipe.schema.recipe import Recipe

logging.disable_progress_bar()  # a bar per file would tear the console's own display


def locate(name: str, base_dir: Path) -> str:
    """The folder `name` means, seen from `base_dir`; a name that is no folder is left to the hub.

    Raises:
        UserError: a path that does not exist, or a folder that no model can be read from.
    """
    folder = base_dir / user_path(name)
    if folder.is_dir():
        return str(folder.resolve())
    if folder.exists() or means_a_path(name, base_dir):
        refuse_gguf(folder)
        raise UserError(
            f"{folder} is not a folder", where=WHERE, fix="give a folder with config.json and *.safetensors"
        )
    spare_retries()
    return name


def read_config(source: str, revision: str | None) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        UserError: it cannot be read, would need code of its own, describes quantized weights, or there is none but an
            adapter's.
    """
    _refuse_adapter(source)
    refuse_bare_checkpoint(source)
    require_as_exported(source, weights=False)
    with explained(source, "read the configuration of"):
        require_plain_folder(source)
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        values = values if isinstance(values, dict) else {}
        require_sizes(values, source)
        require_layers(values)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    if quantized := getattr(config, "quantization_config", None):
        kind = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else "unknown"
        raise UserError(
            f"{source} holds quantized weights ({kind}), which cannot be trained",
            where=WHERE,
            fix="start from the float weights",
        )
    return config


def refuse_longer_sequences(recipe: Recipe, base_dir: Path) -> None:
    """Raise UserError for data that the recipe's model has no positions for. Of a hub's model only where its tokenizer
    is asked for as well: data alone need no network."""
    section, data = recipe.model, recipe.data
    if section.name_or_path is None:
        return
    source = locate(section.name_or_path, base_dir)
    if Path(source).is_dir() or data.tokenizer is None:
        config = read_config(source, section.revision)
        if section.rope is not None:
            scale_rope(config, section.rope, base_dir, built=False)
        require_positions(config, data.max_length)


def kind_of(config: PreTrainedConfig) -> Any:
    """transformers' class for the kind of model `config` was saved from: with a head that classifies, or causal."""
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM


def skeleton(
    config: PreTrainedConfig, attn_implementation: str | None, kind: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    """The model of `config` on the meta device: shapes and names, no memory, float32.

    Args:
        attn_implementation: None takes the fastest that the architecture has of sdpa and eager.

    Raises:
        UserError: there is no model of that `kind` for the configuration, it refuses the attention kernel, or has more
            layers than this machine could hold.
    """
    require_memory(config, 0)
    source = config.name_or_path or config.model_type
    with explained(source, "build the model of"), _quiet(), torch.device("meta"):
        model = kind.from_config(
            config, dtype=torch.float32, attn_implementation=attn_implementation, trust_remote_code=False
        )
    return _checked(model)


def load_pretrained(
    source: str,
    config: PreTrainedConfig,
    *,
    revision: str | None,
    dtype: torch.dtype,
    attn_implementation: str | None,
    kind: Any = AutoModelForCausalLM,
    drawn: Callable[[str], bool] = lambda name: False,
) -> PreTrainedModel:
    """The model with its stored weights, cast to `dtype`, on the CPU.

    Args:
        drawn: whether a tensor may be missing, or have another shape: it is then drawn from the global random state.

    Raises:
        UserError: no safetensors, weights that do not fit, are missing or left over, two tensors for one parameter, or
            more of them than this machine's memory holds.
    """
    require_as_exported(source, weights=True)
    _refuse_pickles(source)
    refuse_unreadable(Path(source))
    require_memory(config, dtype.itemsize)
    with explained(source, "load the weights of"), _quiet():
        model, info = kind.from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    if unfit := sorted(name for name, *_ in info["mismatched_keys"] if not drawn(name)):
        raise UserError(
            f"{source} has {len(unfit)} tensors of another shape than its model, such as {unfit[0]}", where=WHERE
        )
    if missing := sorted(name for name in info["missing_keys"] if not drawn(name)):
        raise UserError(f"{source} lacks {len(missing)} tensors of its model, such as {missing[0]}", where=WHERE)
    if beyond := _layers_beyond(model, info["unexpected_keys"]):
        raise UserError(f"{source} holds layers that its config.json does not: {some(beyond)}", where=WHERE)
    _refuse_two_for_one(model, source)
    return _checked(model)


def _layers_beyond(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Stored tensors that are called as those of the model are, but for the layer's number. Other heads are none."""
    known = {re.sub(r"\d+", "*", name) for name in model.state_dict()}
    return sorted(name for name in unexpected if re.search(r"\d", name) and re.sub(r"\d+", "*", name) in known)


def _refuse_two_for_one(model: Any, source: str) -> None:
    """Refuse parameters that the configuration ties and files store twice, unequal: transformers alone parts them."""
    for one, other in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if model.get_parameter_or_buffer(one) is not model.get_parameter_or_buffer(other):
            raise UserError(
                f"{source} stores two different tensors for {other} and {one}, which its configuration ties to one",
                where=WHERE,
                fix="set tie_word_embeddings: false in its config.json if both are meant, or remove one of them",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without transformers' table of tensors missing or left over: what matters of it is an error here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _checked(model: Any) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers lays a hub repository's adapter on by itself
        raise UserError(
            f"{model.name_or_path} holds an adapter, not a model", where=WHERE, fix="merge it once with peft"
        )
    leave_start(model)
    return model


def _refuse_adapter(source: str) -> None:
    file = Path(source) / "adapter_config.json"
    if file.is_file():
        raise UserError(
            f"{source} holds an adapter (adapter_config.json), not a model",
            where=WHERE,
            fix="merge it into its base once, with peft's merge_and_unload, and name the folder that save_pretrained writes",
        )


def _refuse_pickles(source: str) -> None:
    folder = Path(source)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run any code when it is read",
            where=WHERE,
            fix="convert it once to safetensors with save_pretrained, on a machine where you trust its origin",
        )
    raise UserError(f"{folder} has no *.safetensors file", where=WHERE, fix="or set model.random_init: true")
