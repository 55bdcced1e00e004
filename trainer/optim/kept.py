"""How a projector is kept between steps: as it is, or in 8 or 4 bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from galore.kernels.ops.compressed import compress, expand
from galore.kernels.storage.layout import GROUP

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


def planned(shape: tuple[int, int], dtype: ProjectorDtype) -> Kept:
    """What `keep` gives for P of `shape`, on `meta`."""
    if dtype not in ("int8", "int4"):
        return {CODES: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")}
    count = shape[0] * shape[1]
    codes = (count, torch.int8) if dtype == "int8" else (-(-count // 2), torch.uint8)
    return {
        CODES: torch.empty(codes[0], dtype=codes[1], device="meta"),
        ABSMAX: torch.empty(-(-count // GROUP), dtype=torch.float16, device="meta"),
    }
