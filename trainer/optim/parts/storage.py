"""How a parameter's tensors are stored: moments, projectors and sums of gradients, in the dtype that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from galore.kernels.family import ProjectorDtype, StateDtype
from galore.kernels.ops import sixteen
from galore.kernels.ops.compressed import compress, expand
from galore.kernels.storage import blockwise
from galore.kernels.storage.layout import GROUP
from galore.kernels.storage.moments import Moments, Storage, storage

SQUARES = "exp_avg_sq"  # the moment that is never negative
SMALLEST_QUANTIZED = 4096  # elements; smaller tensors stay fp32, as in bitsandbytes


def new_state(
    name: str, shape: torch.Size, dtype: StateDtype, device: torch.device, whole: torch.Size | None = None
) -> dict[str, Tensor]:
    """Zero storage of moment `name` as named tensors: {name} in fp32, or its codes with {name}_absmax; of 4 bits with
    {name}_rows and {name}_columns.

    Codes of 4 bits (m, n/2) hold two numbers of a row each; where n is odd, and of what is no matrix, they have 8.
    `whole` is the shape of what it is a part of: the parts of a moment are stored alike.
    """
    if dtype == "float32" or (whole or shape).numel() < SMALLEST_QUANTIZED:
        return {name: torch.zeros(shape, dtype=torch.float32, device=device)}
    if dtype == "4bit" and len(shape) == 2 and shape[1] % 2 == 0:
        rows, columns = shape
        return {
            name: torch.zeros(rows, columns // 2, dtype=torch.uint8, device=device),
            f"{name}_rows": torch.zeros(rows, dtype=torch.float32, device=device),
            f"{name}_columns": torch.zeros(columns, dtype=torch.float32, device=device),
        }
    blocks = -(-shape.numel() // blockwise.BLOCK_SIZE)
    if dtype == "fp8":
        codes = torch.zeros(shape, dtype=torch.float8_e4m3fn, device=device)
    else:
        codes = torch.full(shape, _zero_code(name != SQUARES, device), dtype=torch.uint8, device=device)
    return {name: codes, f"{name}_absmax": torch.zeros(blocks, dtype=torch.float32, device=device)}


def _zero_code(signed: bool, device: torch.device) -> int:
    return int(blockwise.code(signed, torch.device("cpu")).abs().argmin())


def moment(state: dict[str, Tensor], name: str) -> Storage:
    """The storage held by a parameter's `state` under `name`."""
    return storage(state[name], state.get(f"{name}_absmax"), first=name != SQUARES)


def moments(state: dict[str, Tensor]) -> Moments:
    """Both moments of Adam in a parameter's `state`."""
    return Moments(state["exp_avg"], state["exp_avg_sq"], state.get("exp_avg_absmax"), state.get("exp_avg_sq_absmax"))


def read_moment(state: dict[str, Tensor], name: str) -> Tensor:
    """Moment `name` as a whole, in fp32."""
    if f"{name}_rows" in state:
        return sixteen.decode(*_in_sixteen(state, name))
    shape = state[name].shape
    return moment(state, name).read(0, shape.numel()).view(shape)


def write_moment(state: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Store fp32 `value` as the whole of moment `name`."""
    if f"{name}_rows" in state:
        sixteen.encode_(*_in_sixteen(state, name), value)
    else:
        moment(state, name).write(0, value.numel(), value.reshape(-1))


def _in_sixteen(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, and the sizes of rows and columns."""
    return state[name], state[f"{name}_rows"], state[f"{name}_columns"]


CODES, ABSMAX = "projector", "projector_absmax"  # names in a parameter's state
Projector = dict[str, Tensor]
"""P (a, r) as named tensors: `projector`, and for codes `projector_absmax`."""


def row_major(x: Tensor) -> Tensor:
    """x as a fresh tensor of its shape lies in memory.

    To torch a column of a matrix is contiguous as it is, since a dimension of 1 may have any stride. BLAS goes by it.
    """
    return x.contiguous().view(-1).view(x.shape)


@dataclass(frozen=True)
class ProjectorFormat:
    """Projectors rounded to `dtype`; or codes of so many `bits`, packed into it, an fp16 scale per group."""

    dtype: torch.dtype
    bits: Literal[4, 8] | None = None

    def encode(self, p: Tensor) -> Projector:
        """P (a, r) as named tensors."""
        if self.bits is None:
            return {CODES: row_major(p.to(self.dtype))}
        compressed = compress(p, self.bits)
        return {CODES: compressed["codes"], ABSMAX: compressed["absmax"]}

    def planned(self, shape: tuple[int, int]) -> Projector:
        """What `encode` gives for P of `shape`, on `meta`."""
        if self.bits is None:
            return {CODES: torch.empty(shape, dtype=self.dtype, device="meta")}
        count = shape[0] * shape[1]
        return {
            CODES: torch.empty(-(-count * self.bits // 8), dtype=self.dtype, device="meta"),
            ABSMAX: torch.empty(-(-count // GROUP), dtype=torch.float16, device="meta"),
        }


PROJECTOR_FORMATS: dict[ProjectorDtype, ProjectorFormat] = {
    "float32": ProjectorFormat(torch.float32),
    "bfloat16": ProjectorFormat(torch.bfloat16),
    "int8": ProjectorFormat(torch.int8, 8),
    "int4": ProjectorFormat(torch.uint8, 4),
}


def decode(projector: Projector, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """P (a, r) in `dtype`, from what `encode` gave."""
    if ABSMAX in projector:
        return expand({"codes": projector[CODES], "absmax": projector[ABSMAX]}, shape, dtype)
    return projector[CODES].to(dtype)


def squared_norm(value: Tensor) -> Tensor:
    """‖value‖² as a float64 scalar; the norm is fp32, and float64 of such a value."""
    norm: Tensor = torch.linalg.vector_norm(value, dtype=torch.promote_types(value.dtype, torch.float32))
    return norm.double().square()


class GradientSum:
    """Σ over micro-batches in `dtype`. A first term of fewer bits stays as it comes, until a second one is added."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.value: Tensor | None = None

    @property
    def exists(self) -> bool:
        """Whether there is any term."""
        return self.value is not None

    @property
    def here(self) -> Tensor | None:
        """What of it lies on the device."""
        return self.value

    def add(self, term: Tensor) -> None:
        """Add `term`, which the caller gives up."""
        value = self.value
        if value is None:
            self.value = term if term.dtype.itemsize <= self.dtype.itemsize else term.to(self.dtype)
        else:
            self.value = value.to(self.dtype).add_(term)

    def take(self) -> Tensor:
        """Return the sum and forget it."""
        value, self.value = self.value, None
        assert value is not None, "nothing was accumulated"
        return value

    def squared_norm(self) -> Tensor:
        """‖sum‖² as a float64 scalar."""
        value = self.value
        assert value is not None, "nothing was accumulated"
        return squared_norm(value)
