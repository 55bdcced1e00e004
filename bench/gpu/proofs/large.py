"""The proof of memory of 7B and 13B, each in a process that may take no more than the card that its recipe names."""

from __future__ import annotations

from gpu.proofs.memory import GROWING, LARGE, Row, compare_all
from gpu.records import Records
from gpu.scale import Scale


def prove(scale: Scale, records: Records) -> None:
    compare_all([Row(recipe, GROWING) for recipe in LARGE], scale, records)
