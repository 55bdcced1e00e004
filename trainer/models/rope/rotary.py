"""The rotary modules of a model: set from another configuration, and first tokens whose positions stay unscaled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from galore.trainer.models.rope.scaling import START, own_parameters, scale_rope
from galore.trainer.recipe.schema.rope import RopeSection


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


def fix_frequencies(model: PreTrainedModel) -> None:
    """Keep the frequencies of `dynamic` in `model` as they begin: on the meta device no length can be looked at."""
    for _, _, module in _rotary(model):
        if getattr(module, "rope_type", None) == "dynamic":
            module.__dict__["rope_type"] = "default"


@contextmanager
def rotating(model: nn.Module, config: PreTrainedConfig) -> Iterator[None]:
    """A context in which `model` rotates positions as `config` says; its own configuration is as before."""
    before = list(_rotary(model))
    text = config.get_text_config()
    try:
        for parent, name, module in before:
            setattr(parent, name, _module(module, text, _device(module)))
        yield
    finally:
        for parent, name, module in before:
            setattr(parent, name, module)


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


def _module(like: nn.Module, config: PreTrainedConfig, device: torch.device) -> nn.Module:
    kind, count = _kind(like), getattr(config, START, None)
    scaled: nn.Module = kind(config).to(device)
    if not count:
        return scaled
    plain = copy.deepcopy(config)
    plain.rope_parameters = own_parameters(config) | {"rope_type": "default"}
    return StartLeftAlone(scaled, kind(plain).to(device), count)


def _device(module: nn.Module) -> torch.device:
    return next(module.buffers()).device
