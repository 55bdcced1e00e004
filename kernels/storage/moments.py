"""Adam's moments as they are stored, in fp32, bitsandbytes' dynamic 8 bits or e4m3, read and written as fp32 blocks."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from galore.kernels.storage import blockwise, fp8
from galore.kernels.storage.blockwise import BLOCK_SIZE

Kind = Literal["float32", "dynamic", "e4m3"]
KINDS: dict[torch.dtype, Kind] = {torch.float32: "float32", torch.uint8: "dynamic", torch.float8_e4m3fn: "e4m3"}


class Storage(Protocol):
    """A moment of `numel` elements, seen flat."""

    def read(self, first: int, last: int) -> Tensor:
        """fp32 values of elements [first, last); `first` is a multiple of the storage's block."""

    def write(self, first: int, last: int, value: Tensor) -> None:
        """Store the fp32 values that `read` returned and the rule updated; they are used up."""


class Float32Storage:
    """Plain fp32: `read` is a view, so the update happens in place."""

    def __init__(self, tensor: Tensor) -> None:
        self.flat = tensor.view(-1)

    def read(self, first: int, last: int) -> Tensor:
        return self.flat[first:last]

    def write(self, first: int, last: int, value: Tensor) -> None:
        """Nothing to do where `value` is what `read` gave, which is the storage."""
        if value.data_ptr() != self.flat[first:last].data_ptr():
            self.flat[first:last] = value


class DynamicStorage:
    """uint8 codes with one fp32 absmax per 256 elements; signed or unsigned dynamic map."""

    def __init__(self, codes: Tensor, absmax: Tensor, signed: bool) -> None:
        self.codes, self.absmax, self.signed = codes.view(-1), absmax, signed

    def read(self, first: int, last: int) -> Tensor:
        return blockwise.dequantize(self.codes[first:last], self.absmax[_blocks(first, last)], self.signed)

    def write(self, first: int, last: int, value: Tensor) -> None:
        blockwise.quantize_(self.codes[first:last], self.absmax[_blocks(first, last)], value, self.signed)


class E4m3Storage:
    """e4m3 codes with one fp32 absmax per 256 elements, of the number or, `squared`, of its square root."""

    def __init__(self, codes: Tensor, absmax: Tensor, squared: bool) -> None:
        self.codes, self.absmax, self.squared = codes.view(-1), absmax, squared

    def read(self, first: int, last: int) -> Tensor:
        value = fp8.dequantize(self.codes[first:last], self.absmax[_blocks(first, last)])
        return value.square_() if self.squared else value

    def write(self, first: int, last: int, value: Tensor) -> None:
        value = value.sqrt_() if self.squared else value
        fp8.quantize_(self.codes[first:last], self.absmax[_blocks(first, last)], value)


def _blocks(first: int, last: int) -> slice:
    return slice(first // BLOCK_SIZE, -(-last // BLOCK_SIZE))


class Moments(NamedTuple):
    """m and v, each of k elements; with an fp32 absmax per 256 of them where they are codes, which e4m3 keeps of √v."""

    m: Tensor
    v: Tensor
    m_absmax: Tensor | None = None
    v_absmax: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return KINDS[self.m.dtype]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self if x is not None)

    @property
    def storages(self) -> tuple[Storage, Storage]:
        """How m and v are read and written, in this order."""
        return storage(self.m, self.m_absmax, first=True), storage(self.v, self.v_absmax, first=False)


def storage(values: Tensor, absmax: Tensor | None, *, first: bool) -> Storage:
    """How a moment is read and written, by its dtype; `first` or second, which is never negative."""
    if absmax is None:
        return Float32Storage(values)
    if values.dtype == torch.float8_e4m3fn:
        return E4m3Storage(values, absmax, squared=not first)
    return DynamicStorage(values, absmax, signed=first)
