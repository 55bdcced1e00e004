"""Clipping by others, which finds no gradients here: told once, where the code around a step asks for it."""

from __future__ import annotations

import warnings
from types import FrameType

CLIPPERS = ("clip_grad_norm_", "clip_grad_value_")


def warn_of_clipping(frame: FrameType | None) -> None:
    """Warn if a function that led to `frame`, which takes a step that nobody clipped, names one of torch's clippers.

    Gradients are taken over in the backward, so that those functions, and what calls them, see none and return 0. They
    leave no trace of having been called; that a caller's code names them is all there is to know.
    """
    while frame is not None:
        named = [name for name in CLIPPERS if name in frame.f_code.co_names]
        if named and not str(frame.f_globals.get("__name__", "")).startswith(("torch.", "galore.")):
            warnings.warn_explicit(
                f"{frame.f_code.co_name} names {named[0]}: torch's finds no gradients to clip, as GaLoreAdamW has taken "
                "them over in the backward. Give the optimizer max_grad_norm=, or call its own clip_grad_norm_ before step()",
                UserWarning,
                frame.f_code.co_filename,
                frame.f_lineno,
            )
            return
        frame = frame.f_back
