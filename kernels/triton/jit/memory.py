"""Device code: reading with or without a mask."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read(pointer, mask):
    """Elements at `pointer`, 0 where the mask is false; a mask of None reads all."""
    return tl.load(pointer) if mask is None else tl.load(pointer, mask=mask, other=0)
