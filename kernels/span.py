"""The parts of a step by name, which torch's profiler sees while a step is profiled; otherwise they are nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch

Part = Literal["step", "data", "forward", "backward", "projection", "update", "refresh"]
PARTS: tuple[Part, ...] = get_args(Part)
PREFIX = "galore."  # before a part's name in a trace

_NOTHING = nullcontext()
_seen = False


def span(part: Part) -> AbstractContextManager[Any]:
    """A context for a part of a step, in whichever thread it is carried out; a part within another is not of it."""
    return torch.profiler.record_function(PREFIX + part) if _seen else _NOTHING


@contextmanager
def spans_are_seen() -> Iterator[None]:
    """A context in which a profiler sees the parts."""
    global _seen
    _seen = True
    try:
        yield
    finally:
        _seen = False
