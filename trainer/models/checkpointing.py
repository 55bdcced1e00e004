"""Which blocks of a decoder are computed again in the backward instead of keeping what they computed in the forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.kernels.device import device_type
from galore.trainer.common.errors import UserError
from galore.trainer.models.offload import OffloadingCheckpoint, copies_for


def recompute_blocks(model: nn.Module, which: bool | int, offload: bool = False) -> list[str]:
    """Recompute all blocks of `model`, or the first `which`; returns lines that say so where it is not simply all.

    The first ones, since the last blocks' activations are the first to go: they have made room when recomputing begins.

    Args:
        which: True is all; False none; a number must not exceed that of the blocks.
        offload: keep the inputs of the recomputed blocks on the host.

    Raises:
        UserError: the model has fewer blocks.
    """
    if which is False:
        return []
    settings = {"use_reentrant": False, "preserve_rng_state": not next(model.parameters()).is_meta}
    _enable(model, settings)
    blocks = blocks_of(model)
    told = [] if which is True else [_leave_out(blocks, which)]
    if offload:
        device = next(model.parameters()).device
        checkpoint = OffloadingCheckpoint(copies_for(device), **settings)
        for block in blocks:
            block._gradient_checkpointing_func = checkpoint
        told.append(_where(device_type(device)))
    return told


def blocks_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers of a decoder or encoder, from the first to the last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def offloading(model: nn.Module) -> Iterator[OffloadingCheckpoint]:
    """What moves the inputs of `model`'s blocks to the host, once; nothing where they stay."""
    found = {getattr(module, "_gradient_checkpointing_func", None) for module in model.modules()}
    return (each for each in found if isinstance(each, OffloadingCheckpoint))


def _enable(model: Any, settings: dict[str, bool]) -> None:
    """Transformers 5 renamed the switch. On meta there is no generator, whose state would be kept for dropout."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)


def _leave_out(blocks: list[GradientCheckpointingLayer], first: int) -> str:
    if first > len(blocks):
        raise UserError(
            f"the model has {len(blocks)} blocks, {first} cannot be recomputed",
            where="train.gradient_checkpointing",
            fix=f"write true for all of them, or a number up to {len(blocks)}",
        )
    for block in blocks[first:]:
        block.gradient_checkpointing = False
    return f"recomputed in the backward: the first {first} of {len(blocks)} blocks"


def _where(kind: str) -> str:
    if kind == "cuda":
        return "inputs of recomputed blocks: in pinned host memory, copied on a stream of their own"
    return "train.offload_activations: does nothing on the CPU, whose memory is the host's"
