"""Device code: reading with or without a mask."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read(pointer, mask):
    """Elements at `pointer`, 0 where the mask is false; a mask of None reads all."""
    if mask is None:
        value = tl.load(pointer)
    else:
        value = tl.load(pointer, mask=mask, other=0)
    return value
