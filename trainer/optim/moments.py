"""Moments among a parameter's named tensors: made in the dtype that is asked for, found by their names."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from galore.kernels.storage import blockwise
from galore.kernels.storage.moments import Moments, Storage, storage

StateDtype = Literal["float32", "8bit", "fp8"]
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
