"""Who takes the gradients of a parameter: one living optimizer at a time, and no other steps without them unnoticed."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Place(Protocol):
    """Where an owner puts the gradients of one parameter."""

    @property
    def name(self) -> str: ...

    @property
    def has_gradient(self) -> bool: ...


class Owner(Protocol):
    """An optimizer that takes gradients over while it is attached."""

    attached: bool

    @property
    def slots(self) -> Mapping[nn.Parameter, Place]: ...

    def release(self) -> None: ...


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


def take_over(owner: Owner) -> None:
    """Let `owner` have the gradients of its parameters: who had those of one of them lets go of all of its own."""
    for other in list(_owners):
        if other is not owner and other.attached and not other.slots.keys().isdisjoint(owner.slots):
            other.release()
    _owners.add(owner)
    _watch_steps()


@functools.cache
def _watch_steps() -> None:
    register_optimizer_step_pre_hook(_refuse_starved)
    # torch imports its compiler for the first optimizer of a process, and leaves garbage whose frames hold that one
    gc.collect()


def _refuse_starved(stepping: Any, *_: Any) -> None:
    """Raise RuntimeError for a step of parameters whose gradients lie with another optimizer: it would move nothing."""
    for owner in [each for each in _owners if each is not stepping and each.attached]:
        for parameter in (p for group in stepping.param_groups for p in group["params"]):
            place = owner.slots.get(parameter)
            if place is not None and place.has_gradient and parameter.grad is None:
                raise RuntimeError(
                    f"this {type(stepping).__name__} finds no gradient of {place.name}: a {type(owner).__name__} that still "
                    "lives has taken it; call release() on that one, or step() that one"
                )
