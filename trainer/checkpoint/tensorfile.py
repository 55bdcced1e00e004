"""The safetensors format as a stream: one tensor at a time on its way to the disk.

`safetensors.save_file` wants all tensors on the CPU, contiguous and unshared before it writes the first byte: for a
model on a GPU that is a second copy of it in host memory. Reading is left to the library.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Parted:
    """What a file is told of a tensor that lies in parts on several ranks, and what brings them together: on all ranks,
    one tensor after the other, so that none but one is whole at a time.

    Attributes:
        own: the part of this rank, which begins at `offset`: of the whole, or of what becomes it when it is made flat.
    """

    shape: torch.Size
    dtype: torch.dtype
    gather: Callable[[], Tensor]
    own: Tensor
    offset: tuple[int, ...]
    is_meta: ClassVar[bool] = False
    layout: ClassVar[torch.layout] = torch.strided

    def numel(self) -> int:
        return self.shape.numel()

    def element_size(self) -> int:
        return self.dtype.itemsize


Stored = Tensor | Parted


def tensor_bytes(tensors: Mapping[str, Stored]) -> int:
    """Size of the tensors' values in bytes, each name counted in full even where names share memory."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def stream(tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file: the header, then each tensor's values.

    Args:
        tensors: any device, dtype, shape and stride. Every name is written in full, also where names share memory.
        metadata: what the header says beside them.

    Raises:
        TypeError: a tensor has a dtype that the format lacks, is sparse, or has no values (meta).
    """
    order = in_order(tensors)
    yield _header({name: tensors[name] for name in order}, metadata or {})
    for name in order:
        if tensors[name].numel():
            yield _values(tensors[name])


def in_order(tensors: Mapping[str, Stored]) -> Sequence[str]:
    """The names, widest first, as the library orders them: every tensor then starts at a multiple of its item size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _dtype_name(name, tensor), "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _dtype_name(name: str, tensor: Stored) -> str:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in DTYPE_NAMES:
        kind = f"{tensor.dtype}, {tensor.layout}" + (", on meta" if tensor.is_meta else "")
        raise TypeError(f"tensor {name!r} ({kind}) cannot be stored as safetensors")
    return DTYPE_NAMES[tensor.dtype]


def _values(tensor: Stored) -> memoryview:
    tensor = tensor.gather() if isinstance(tensor, Parted) else tensor
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: np.ndarray = flat.view(torch.uint8).numpy()
    return array.data
