"""Storage of one Adam moment: a type per format, read and written as fp32 blocks; the mathematics does not know which."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from galore.kernels import blockwise

StateDtype = Literal["float32", "8bit"]
SMALLEST_QUANTIZED = 4096  # elements; smaller tensors stay fp32, as in bitsandbytes


class Moment(Protocol):
    """A moment of `numel` elements, seen flat."""

    def read(self, first: int, last: int) -> Tensor:
        """fp32 values of elements [first, last); `first` is a multiple of the storage's block."""

    def write(self, first: int, last: int, value: Tensor) -> None:
        """Store the fp32 values that `read` returned and the rule updated; they are used up."""


class Float32Moment:
    """Plain fp32: `read` is a view, so the update happens in place."""

    def __init__(self, tensor: Tensor) -> None:
        self.flat = tensor.view(-1)

    def read(self, first: int, last: int) -> Tensor:
        return self.flat[first:last]

    def write(self, first: int, last: int, value: Tensor) -> None:
        """Nothing to do where `value` is what `read` gave, which is the storage."""
        if value.data_ptr() != self.flat[first:last].data_ptr():
            self.flat[first:last] = value


class BlockwiseMoment:
    """uint8 codes with one fp32 absmax per 256 elements; signed or unsigned dynamic map."""

    def __init__(self, codes: Tensor, absmax: Tensor, signed: bool) -> None:
        self.codes, self.absmax, self.signed = codes.view(-1), absmax, signed

    def _blocks(self, first: int, last: int) -> slice:
        return slice(first // blockwise.BLOCK_SIZE, -(-last // blockwise.BLOCK_SIZE))

    def read(self, first: int, last: int) -> Tensor:
        return blockwise.dequantize(self.codes[first:last], self.absmax[self._blocks(first, last)], self.signed)

    def write(self, first: int, last: int, value: Tensor) -> None:
        blockwise.quantize_(self.codes[first:last], self.absmax[self._blocks(first, last)], value, self.signed)


def new_state(name: str, shape: torch.Size, dtype: StateDtype, device: torch.device) -> dict[str, Tensor]:
    """Zero storage of moment `name` as named tensors: {name} in fp32, or {name} (uint8) with {name}_absmax (fp32)."""
    if dtype == "float32" or shape.numel() < SMALLEST_QUANTIZED:
        return {name: torch.zeros(shape, dtype=torch.float32, device=device)}
    blocks = -(-shape.numel() // blockwise.BLOCK_SIZE)
    zero = _zero_code(name == "exp_avg", device)
    return {
        name: torch.full(shape, zero, dtype=torch.uint8, device=device),
        f"{name}_absmax": torch.zeros(blocks, dtype=torch.float32, device=device),
    }


def _zero_code(signed: bool, device: torch.device) -> int:
    return int(blockwise.code(signed, torch.device("cpu")).abs().argmin())


def moment(state: dict[str, Tensor], name: str) -> Moment:
    """The storage held by a parameter's `state` under `name`."""
    if state[name].dtype == torch.uint8:
        return BlockwiseMoment(state[name], state[f"{name}_absmax"], signed=name == "exp_avg")
    return Float32Moment(state[name])
