"""What a recipe changes of a network's forward: tables, in the order of doing. Another change is a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from galore.kernels.device import device_type
from galore.trainer.host.attach import stream_blocks
from galore.trainer.models.changes.fused import fuse_pieces
from galore.trainer.models.changes.skips import let_positions_skip
from galore.trainer.models.checkpointing import recompute_blocks
from galore.trainer.models.cpu import optimize_decoder
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.models.matmul.install import multiply_in_eight_bits
from galore.trainer.models.tiles.attach import tile_modules
from galore.trainer.recipe.schema.recipe import Recipe

Change = Callable[[Any, Recipe, torch.device], list[str]]
"""Of a model, in place, if the recipe asks for it on such a device; returns lines that say what runs now, and why."""


def _kernels(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return optimize_decoder(model) if device_type(device) == "cpu" else []


def _fuses(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return fuse_pieces(model, recipe.train.fused, device)


def _isolates(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return isolate_documents(model) if recipe.data.isolates else []


def _skips(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return let_positions_skip(model, recipe.train.position_skips, recipe.data.max_length, recipe.data.isolates)


def _tiles(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return tile_modules(model, recipe.train.tile_tokens, recipe.train.micro_batch_size * recipe.data.max_length)


def _streams(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return stream_blocks(model, device, recipe.train.stream_weights, recipe.optim.method == "lora")


def _recomputes(model: Any, recipe: Recipe, device: torch.device) -> list[str]:
    return recompute_blocks(model, recipe.train.gradient_checkpointing, recipe.train.offload_activations)


# by what asks for each; of the network as transformers has it
BARE: dict[str, Change] = {
    "train.device": _kernels,
    "data.isolate_documents": _isolates,
    # asks for gradients of cos and sin, which fused rotations have none of
    "train.position_skips": _skips,
    "train.fused": _fuses,
}
# of the model with what is trained beside its matrices
WHOLE: dict[str, Change] = {
    "train.matmul": multiply_in_eight_bits,
    "train.tile_tokens": _tiles,
    "train.stream_weights": _streams,
    "train.gradient_checkpointing": _recomputes,
}
ATTRIBUTE = "_told"  # of the model


def change(model: Any, changes: dict[str, Change], recipe: Recipe, device: torch.device) -> list[str]:
    """Carry out `changes` in their order; returns what they say, which `told` repeats by key."""
    said = {key: apply(model, recipe, device) for key, apply in changes.items()}
    setattr(model, ATTRIBUTE, getattr(model, ATTRIBUTE, {}) | said)
    return [line for lines in said.values() for line in lines]


def told(model: Any, key: str) -> list[str]:
    """What the change of `model` that `key` asks for said; nothing where there was none."""
    lines: list[str] = getattr(model, ATTRIBUTE, {}).get(key, [])
    return lines
