"""Moments among a parameter's named tensors: made in the dtype that is asked for, found by their names."""

from __future__ import annotations

import torch
from torch import Tensor

from galore.kernels.family import ProjectorDtype, StateDtype
from galore.kernels.ops.compressed import compress, expand
from galore.kernels.storage import blockwise
from galore.kernels.storage.layout import GROUP
from galore.kernels.storage.moments import Moments, Storage, storage

SMALLEST_QUANTIZED = 4096  # elements; smaller tensors stay fp32, as in bitsandbytes


def new_state(name: str, shape: torch.Size, dtype: StateDtype, device: torch.device) -> dict[str, Tensor]:
    """Zero storage of moment `name` as named tensors: {name} in fp32, or {name} in 8 bits with {name}_absmax (fp32)."""
    if dtype == "float32" or shape.numel() < SMALLEST_QUANTIZED:
        return {name: torch.zeros(shape, dtype=torch.float32, device=device)}
    blocks = -(-shape.numel() // blockwise.BLOCK_SIZE)
    if dtype == "fp8":
        codes = torch.zeros(shape, dtype=torch.float8_e4m3fn, device=device)
    else:
        codes = torch.full(shape, _zero_code(name == "exp_avg", device), dtype=torch.uint8, device=device)
    return {name: codes, f"{name}_absmax": torch.zeros(blocks, dtype=torch.float32, device=device)}


def _zero_code(signed: bool, device: torch.device) -> int:
    return int(blockwise.code(signed, torch.device("cpu")).abs().argmin())


def moment(state: dict[str, Tensor], name: str) -> Storage:
    """The storage held by a parameter's `state` under `name`."""
    return storage(state[name], state.get(f"{name}_absmax"), first=name == "exp_avg")


def moments(state: dict[str, Tensor]) -> Moments:
    """Both of Adam's."""
    return Moments(state["exp_avg"], state["exp_avg_sq"], state.get("exp_avg_absmax"), state.get("exp_avg_sq_absmax"))


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


class GradientSum:
    """Σ over micro-batches in `dtype`. A first term of fewer bits is kept as it comes, until a second one is added."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.value: Tensor | None = None

    def add(self, term: Tensor) -> None:
        """Add `term`, which the caller gives up."""
        if self.value is None:
            self.value = term if term.dtype.itemsize <= self.dtype.itemsize else term.to(self.dtype)
        else:
            self.value = self.value.to(self.dtype).add_(term)

    def take(self) -> Tensor:
        """Return the sum and forget it."""
        value, self.value = self.value, None
        assert value is not None, "nothing was accumulated"
        return value
