"""How a projector is kept between steps: as it is, or in 8 or 4 bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from galore.kernels.compressed import compress, compressed_bytes, expand

ProjectorDtype = Literal["float32", "bfloat16", "int8", "int4"]
CODES, ABSMAX = "projector", "projector_absmax"  # names in a parameter's state
Kept = dict[str, Tensor]


def keep(p: Tensor, dtype: ProjectorDtype) -> Kept:
    """P (a, r) as named tensors: `projector`, and for codes `projector_absmax`."""
    if dtype in ("int8", "int4"):
        stored = compress(p, 8 if dtype == "int8" else 4)
        return {CODES: stored["codes"], ABSMAX: stored["absmax"]}
    return {CODES: p.to(getattr(torch, dtype))}


def matrix(kept: Kept, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """P (a, r) in `dtype`, from what `keep` gave."""
    if ABSMAX in kept:
        return expand({"codes": kept[CODES], "absmax": kept[ABSMAX]}, shape, dtype)
    return kept[CODES].to(dtype)


def kept_bytes(shape: tuple[int, int], dtype: ProjectorDtype) -> int:
    """Bytes of what `keep` gives for P of `shape`."""
    if dtype in ("int8", "int4"):
        return compressed_bytes(shape, 8 if dtype == "int8" else 4)
    return shape[0] * shape[1] * getattr(torch, dtype).itemsize  # type: ignore[no-any-return]
