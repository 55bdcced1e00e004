"""A factor of a product as kernels read it: its elements, where they lie, and in how many bits."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from galore.kernels.storage.layout import Compressed, Matrix


class Operand(NamedTuple):
    """A matrix (rows, columns) at `values`, element (i, j) at i·strides[0] + j·strides[1]; `bits` 0 is as it is."""

    values: Tensor
    absmax: Tensor | None
    bits: int
    shape: tuple[int, int]
    strides: tuple[int, int]

    @classmethod
    def of(cls, x: Matrix) -> Operand:
        """A matrix as it is kept, dense with any strides or in codes."""
        if isinstance(x, Compressed):
            return cls(x.codes, x.absmax, x.bits, x.shape, (x.shape[1], 1))
        return cls(x, None, 0, (x.shape[0], x.shape[1]), (x.stride(0), x.stride(1)))

    @property
    def mT(self) -> Operand:  # noqa: N802 - as of tensors
        """The elements, seen transposed."""
        return Operand(self.values, self.absmax, self.bits, self.shape[::-1], self.strides[::-1])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (self.absmax.nbytes if self.absmax is not None else 0)

    def arguments(self, name: str) -> dict[str, Any]:
        """Pointers, as the kernels name them."""
        return {name: self.values, f"{name}_ABSMAX": self.absmax}
