"""Calls that need a sharded model's parameters outside of its layers: made from inside of its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")
ENTERED = "entered"  # the keyword of a sharded model's forward that takes a call


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 gathers the parameters of `model` for its forward and backward alone."""
    return hasattr(type(model), "reshard")


def entered(model: nn.Module, call: Callable[[], T]) -> T:
    """What `call` gives while what lies outside of a sharded model's blocks is whole: embedding, norm, head.

    All ranks call it together, and what happens in it runs as many blocks on each of them.
    """
    if not is_sharded(model):
        return call()
    sharded: Any = model
    found: T = sharded(**{ENTERED: call})
    # the backward lets go of them, where there is one
    if not torch.is_grad_enabled():
        sharded.reshard()
    return found
