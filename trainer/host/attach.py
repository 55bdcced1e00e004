"""Streaming the blocks of a recipe's model: which tensors wait on the host, and what cannot be streamed."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.kernels.device import device_type
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import size
from galore.trainer.host.blocks import ATTRIBUTE, StreamedBlocks
from galore.trainer.optim.int8_linear import int8_layers

FEWEST = 2  # blocks on the device: one is computed with, and one is on its way
WHERE = "train.stream_weights"


def stream_blocks(model: nn.Module, device: torch.device, which: bool | int, adapters: bool) -> list[str]:
    """Let the matrices of `model`'s blocks wait on the host, and move all else to `device`; returns lines that say so.

    Norms, biases and what several blocks share stay on the device.

    Args:
        which: False streams nothing; True has two blocks on the device; or so many.
        adapters: what is trained in a block is a small part of it, and stays on the device.

    Raises:
        UserError: the model has no blocks that could be streamed, or too few.
    """
    if which is False:
        return []
    count = FEWEST if which is True else which
    modules, shared = outermost_blocks(model), _shared(model)
    tensors = [_matrices(module, shared, adapters) for module in modules]
    modules, tensors = [m for m, t in zip(modules, tensors, strict=True) if t], [each for each in tensors if each]
    _refuse_few(model, len(modules), count)
    streamed = StreamedBlocks(modules, tensors, device, count)
    setattr(model, ATTRIBUTE, streamed)
    _move_rest(model, device, {id(tensor) for each in tensors for tensor in each})
    where = "pinned host memory" if device_type(device) == "cuda" else "memory, where the device's is: nothing is saved"
    return [
        f"weights: {len(modules)} blocks, {size(sum(streamed.sizes))}, wait in {where}; {count} at a time on the device"
    ]


def outermost_blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder's blocks, which can be recomputed alone; not those inside of others."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    return [each for name, each in found.items() if not any(name.startswith(f"{other}.") for other in found)]


def _matrices(block: nn.Module, shared: set[int], adapters: bool) -> list[Tensor]:
    """Matrices that the block alone has, with the scales of quantized ones."""
    weights: list[Tensor] = [p for p in block.parameters() if p.ndim >= 2 and not (adapters and p.requires_grad)]
    weights += [layer.weight_scale for layer in int8_layers(block)]
    return [each for each in weights if id(each) not in shared]


def _shared(model: nn.Module) -> set[int]:
    """Tensors that several modules have."""
    owners = Counter(id(each) for module in model.modules() for each in module._parameters.values() if each is not None)
    return {each for each, count in owners.items() if count > 1}


def _refuse_few(model: nn.Module, blocks: int, count: int) -> None:
    if not blocks:
        what = f"no block of {type(model).__name__} has weights of its own that only wait to be read"
        raise UserError(what, where=WHERE, fix="leave it out: all weights then lie on the device")
    if blocks <= count:
        what = f"the model has {blocks} blocks to stream, and {count} are to lie on the device at a time"
        several = f"a number from {FEWEST} to {blocks - 1}" if blocks > FEWEST + 1 else "true for two of them"
        fix = f"write {several}" if blocks > FEWEST else "leave it out: the model is that small"
        raise UserError(what, where=WHERE, fix=fix)


def _move_rest(model: nn.Module, device: torch.device, streamed: set[int]) -> None:
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in streamed:
                tensor.data = tensor.data.to(device)
