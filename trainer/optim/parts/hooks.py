"""Hooks on the gradients of parameters that keep nothing alive: what they call may go as if they were not there.

PyTorch holds such a hook in C++, where Python's garbage collector sees no reference. A hook that held its optimizer,
which holds the parameter, would be a cycle that is never found: model and states would stay in memory for good.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor


def after_gradient(parameter: Tensor, receive: Callable[[Tensor], None]) -> Any:
    """Call the method `receive` with `parameter` after each backward that filled its `.grad`, while its object lives.

    Returns the handle that ends it.
    """
    method = weakref.WeakMethod(receive)

    def hook(source: Tensor) -> None:
        if (call := method()) is not None:
            call(source)

    return parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
