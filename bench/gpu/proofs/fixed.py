"""The proof of memory once more, with segments of fixed size, as where PYTORCH_CUDA_ALLOC_CONF forbids growing ones."""

from __future__ import annotations

from gpu.proofs.memory import FIXED, compare_all, rows
from gpu.records import Records
from gpu.scale import Scale


def prove(scale: Scale, records: Records) -> None:
    compare_all(rows(FIXED), scale, records)
