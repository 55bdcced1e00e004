"""Optimizer states as kernels know them: the number of each storage, and the dynamic map as one table to read."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from galore.kernels.storage.blockwise import code

STATES = {"float32": 0, "dynamic": 1, "e4m3": 2}

# Of the table: where values of both maps begin, and the bounds of each code, on 16-byte boundaries.
SIGNED_MAP, UNSIGNED_MAP, SIGNED_BOUNDS, UNSIGNED_BOUNDS = 0, 256, 512, 772
SIZE = UNSIGNED_BOUNDS + 257


@functools.cache
def tables(device: torch.device) -> Tensor:
    """The table, fp32 (1029,), on `device`."""
    if device.type == "meta":
        return torch.empty(SIZE, device=device, dtype=torch.float32)
    maps = [code(signed, torch.device("cpu")) for signed in (True, False)]
    signed, unsigned = (_bounds(values) for values in maps)
    return torch.cat([*maps, signed, maps[0].new_zeros(3), unsigned]).to(device)


def _bounds(values: Tensor) -> Tensor:
    """(257,): code c is the nearest one to the numbers in (bounds[c], bounds[c + 1]]."""
    midpoints = (values[1:] + values[:-1]) / 2
    edge = values.new_tensor([torch.inf])
    return torch.cat([-edge, midpoints, edge])
