"""Hooks on the gradients of parameters that keep nothing alive: what they call may go as if they were not there.

PyTorch holds such a hook in C++, where Python's garbage collector sees no reference. A hook that held its optimizer,
which holds the parameter, would be a cycle that is never found: model and states would stay in memory for good.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def without_grad(function: Callable[P, R]) -> Callable[P, R]:
    """`function` under `torch.no_grad()`, which is not entered anew in a backward: that one mostly keeps no graph."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        with torch.no_grad():
            return function(*args, **kwargs)

    return call


def has_hook(tensor: Tensor) -> bool:
    """Whether somebody wants to see, or to change, the gradient of `tensor`: none of the hooks here is among them."""
    return bool(tensor._backward_hooks)


def after_gradient(parameter: Tensor, receive: Callable[[Tensor], None]) -> Any:
    """Call the method `receive` with `parameter` after each backward that filled its `.grad`, while its object lives.

    Returns the handle that ends it.
    """
    owner, function = weakref.ref(receive.__self__), receive.__func__  # type: ignore[attr-defined]

    def hook(source: Tensor) -> None:
        if (living := owner()) is not None:
            function(living, source)

    return parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
