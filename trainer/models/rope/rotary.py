"""The rotary modules of a model: set from another configuration, held at a length, and first tokens left unscaled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from galore.trainer.models.rope.scaling import ORIGINAL, START, own_parameters, scale_rope
from galore.trainer.recipe.schema.rope import RopeSection

BY_LENGTH = ("dynamic", "longrope")  # types whose frequencies transformers sets anew by the longest position of a batch


class StartLeftAlone(nn.Module):
    """Rotary positions whose first `count` tokens are as if nothing was scaled (LongRoPE, arXiv 2402.13753)."""

    def __init__(self, scaled: nn.Module, plain: nn.Module, count: int) -> None:
        super().__init__()
        self.scaled, self.plain, self.count = scaled, plain, count

    def forward(self, x: Tensor, position_ids: Tensor, *others: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """cos and sin, (b, s, d) each."""
        first = (position_ids < self.count)[..., None]
        cos, sin = self.scaled(x, position_ids, *others, **more)
        plain_cos, plain_sin = self.plain(x, position_ids, *others, **more)
        return torch.where(first, plain_cos, cos), torch.where(first, plain_sin, sin)


def set_rope(model: PreTrainedModel, rope: RopeSection, base_dir: Path) -> None:
    """Let `model` rotate positions as `rope` says, in place, its configuration too; see `scale_rope`."""
    scale_rope(model.config, rope, base_dir, built=False)
    for parent, name, module in list(_rotary(model)):
        setattr(parent, name, _module(module, model.config.get_text_config(), _device(module)))


def leave_start(model: PreTrainedModel) -> None:
    """Give `model` the start tokens that its configuration names, if it does, in place."""
    if getattr(model.config.get_text_config(), START, None):
        for parent, name, module in list(_rotary(model)):
            setattr(parent, name, _module(module, model.config.get_text_config(), _device(module)))


def hold_length(model: nn.Module, length: int) -> None:
    """Let `model` rotate as in sequences of `length` tokens whatever their own, in place.

    Else a loss would depend on which rows and documents share a batch, and on what came before it.
    """
    for parent, name, module in list(_rotary(model)):
        if follows_length(_config(module)):
            setattr(parent, name, _module(module, _config(module), _device(module), length))


@contextmanager
def rotating(model: nn.Module, config: PreTrainedConfig | None = None, length: int | None = None) -> Iterator[None]:
    """A context in which `model` rotates positions as `config` says, or its own; its own configuration is as before.

    Args:
        length: as in `hold_length`.
    """
    before = list(_rotary(model))
    try:
        for parent, name, module in before:
            own = _config(module) if config is None else config.get_text_config()
            if config is not None or (length is not None and follows_length(own)):
                setattr(parent, name, _module(module, own, _device(module), length))
        yield
    finally:
        for parent, name, module in before:
            setattr(parent, name, module)


def follows_length(config: PreTrainedConfig) -> bool:
    """Whether the frequencies of a model of `config` depend on how long a sequence is."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    kinds = [each for each in parameters.values() if isinstance(each, Mapping)]
    return any(each.get("rope_type") in BY_LENGTH for each in kinds or [parameters])


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that make cos and sin of text positions."""
    return [module for _, _, module in _rotary(model)]


def _rotary(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, module) of every module that makes cos and sin of text positions."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if not isinstance(parent, StartLeftAlone) and _kind(child) is not None:
                yield parent, name, child


def _kind(module: nn.Module) -> Any:
    """The class of transformers that makes the cos and sin of `module`; None where it makes none."""
    inner: Any = module.scaled if isinstance(module, StartLeftAlone) else module
    own = "RotaryEmbedding" in type(inner).__name__ and hasattr(getattr(inner, "config", None), "rope_parameters")
    return type(inner) if own else None


def _config(module: nn.Module) -> Any:
    """What a rotary module was made from."""
    inner: Any = module.scaled if isinstance(module, StartLeftAlone) else module
    return inner.config


def _module(like: nn.Module, config: Any, device: torch.device, length: int | None = None) -> nn.Module:
    kind, count = _kind(like), getattr(config, START, None)
    scaled: nn.Module = kind(config).to(device)
    if length is not None:
        _hold(scaled, length)
    if not count:
        return scaled
    plain = copy.deepcopy(config)
    plain.rope_parameters = own_parameters(config) | {"rope_type": "default"}
    return StartLeftAlone(scaled, kind(plain).to(device), count)


def _hold(module: Any, length: int) -> None:
    """Set the frequencies of `length` tokens, and a type by which transformers leaves them alone."""
    types, parameters = module.rope_type, module.config.rope_parameters
    nested = isinstance(types, dict)
    for layer, kind in (types if nested else {None: types}).items():
        if kind not in BY_LENGTH:
            continue
        prefix, named = (f"{layer}_", {"layer_type": layer}) if nested else ("", {})
        own = parameters[layer] if nested else parameters
        if length > (own[ORIGINAL] if kind == "longrope" else module.max_seq_len_cached):
            place = getattr(module, f"{prefix}inv_freq").device
            # transformers computes with a tensor, which rounds otherwise than a number
            asked = torch.tensor(length, device="cpu" if place.type == "meta" else place)
            found, _ = ROPE_INIT_FUNCTIONS[kind](module.config, asked.device, seq_len=asked, **named)
            module.register_buffer(f"{prefix}inv_freq", found.to(place), persistent=False)
        if nested:
            types[layer] = "default"
        else:
            module.__dict__["rope_type"] = "default"


def _device(module: nn.Module) -> torch.device:
    return next(module.buffers()).device
