"""Bytes that a rank gives into the collectives of an optimizer step, by kind, from the shapes alone; and their time."""

from __future__ import annotations

from collections import Counter

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.ranks import HELD
from galore.trainer.optim.slot import FullSlot

# Nominal, one direction, bytes a second.
LINKS = {"10 GbE": 1.25e9, "PCIe 4.0 x16": 31.5e9, "NVLink (A100)": 300e9}


def traffic(optimizer: GaLoreAdamW, clock: int | None = None) -> Counter[str]:
    """Kind → bytes of the step that `clock` others came before; without it, of a step that finds no subspace.

    Every parameter is taken to have a gradient.
    """
    found: Counter[str] = Counter()
    for slot in optimizer.slots.values():
        found.update(slot.sends(_is_turn(slot, clock)))
    passing = [_is_turn(slot, clock) and slot.refresh.passes(clock == 0) for slot in optimizer.projected]
    found["flags"] = HELD * (len(optimizer.slots) + sum(passing))
    return found


def _is_turn(slot: FullSlot, clock: int | None) -> bool:
    return clock is not None and isinstance(slot, ProjectedSlot) and slot.schedule.due(clock)


def seconds(sent: int, size: int, bytes_per_second: float) -> float:
    """Time of a ring all-reduce of `sent` bytes at a link's nominal rate: each rank sends 2 (N - 1) / N of them."""
    return 2 * (size - 1) / size * sent / bytes_per_second
