"""Hooks on the gradients of parameters: they keep nothing alive, and compute as if their caller had set nothing.

What they call may go as if they were not there. PyTorch holds such a hook in C++, where Python's garbage collector sees
no reference. A hook that held its optimizer, which holds the parameter, would be a cycle that is never found: model and
states would stay in memory for good.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
AUTOCAST = ("cpu", "cuda")  # kinds of device, each with an autocast of its own
HIGHEST = "highest"  # of torch.set_float32_matmul_precision: fp32 products take all bits of fp32


class _AllBits:
    """A context in which fp32 products take all bits, whatever torch.set_float32_matmul_precision was told.

    That is told to the process, and backwards have threads: who enters first sets it, and who leaves last puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ExitStack()

    @property
    def needed(self) -> bool:
        try:
            return self._inside > 0 or torch.get_float32_matmul_precision() != HIGHEST
        except RuntimeError:  # where it was told to one backend alone
            return True

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = _tell_all_bits()

    def __exit__(self, *of_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.close()


def _tell_all_bits() -> ExitStack:
    """Tell every backend to multiply in all bits; what is returned puts back what it had been told."""
    before = ExitStack()
    for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):  # type: ignore[attr-defined]
        before.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
        backend.fp32_precision = "ieee"
    return before


_all_bits = _AllBits()


@contextmanager
def shield() -> Iterator[None]:
    """A context without a graph, and without autocast and precision of whoever called: products are as operands are."""
    with ExitStack() as entered:
        if _all_bits.needed:
            entered.enter_context(_all_bits)
        entered.enter_context(torch.no_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                entered.enter_context(torch.autocast(kind, enabled=False))
        yield


def shielded(function: Callable[P, R]) -> Callable[P, R]:
    """`function` in a `shield()`, which is not entered where there is nothing to keep out, as mostly in a backward."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_grad_enabled() or any(map(torch.is_autocast_enabled, AUTOCAST)) or _all_bits.needed):
            return function(*args, **kwargs)
        with shield():
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
