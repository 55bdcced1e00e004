"""How torch's dtypes are called in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

NAMES: dict[torch.dtype, str] = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
}


def language_dtype(dtype: torch.dtype) -> Any:
    """The dtype that matrix products take, as a constant of a kernel."""
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float32
