"""The formats of 8-bit products by name: another one is a small file beside this and a line here."""

from __future__ import annotations

from galore.kernels.ops.matmul.format import Format
from galore.kernels.ops.matmul.fp8 import FP8
from galore.kernels.ops.matmul.int8 import INT8

FORMATS: dict[str, Format] = {each.name: each for each in (INT8, FP8)}
