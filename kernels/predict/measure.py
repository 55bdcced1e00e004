"""Kernels timed on a real card: CUDA events, cold caches, tensors of their own: no weight or moment is touched."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from galore.kernels.predict.candidates import Entry, tiles
from galore.kernels.predict.compiled import ALIGNMENT
from galore.kernels.triton.launch import Launch, run
from galore.kernels.triton.states import tables
from galore.kernels.triton.tile import Tile

REPEATS, WARM = 20, 3
FLUSH = 256 << 20  # bytes written between two runs: more than any card's L2 cache
FLUSHES = 10  # so long that the host has launched all of a run before the card begins it: no launch is timed
Timer = Callable[[Callable[[], Any]], float]


def realized(plan: list[Launch], device: torch.device) -> list[Launch]:
    """A plan that was made on `meta`, on memory of its own; launches that share a tensor go on sharing it."""
    made: dict[int, Tensor] = {}
    return [
        replace(
            launch,
            arguments={
                name: _real(name, value, device, made) if isinstance(value, Tensor) else value
                for name, value in launch.arguments.items()
            },
        )
        for launch in plan
    ]


def _real(name: str, like: Tensor, device: torch.device, made: dict[int, Tensor]) -> Tensor:
    if name == "TABLES":
        return tables(device)
    if id(like) not in made:
        # all of its storage: rows of codes are padded, and kernels write there
        room = torch.zeros(like.untyped_storage().nbytes() // like.itemsize, dtype=like.dtype, device=device)
        memory = room.as_strided(like.shape, like.stride())
        made[id(like)] = memory.normal_() if like.dtype in (torch.float32, torch.bfloat16) else memory
        if name == "V":  # a second moment
            memory.abs_()
        assert made[id(like)].data_ptr() % ALIGNMENT == 0
    return made[id(like)]


def cuda_timer(device: torch.device) -> Timer:
    """Seconds of a call on the device, the median of several, each after the L2 cache has been overwritten."""
    flush = torch.empty(FLUSH, dtype=torch.int8, device=device)

    def timed(call: Callable[[], Any]) -> float:
        for _ in range(WARM):
            call()
        found: list[float] = []
        for _ in range(REPEATS):
            for _ in range(FLUSHES):
                flush.zero_()
            start, end = _event(), _event()
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) * 1e-3)
        return statistics.median(found)

    return timed


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def tune(
    entries: Iterable[Entry], device: torch.device, timer: Timer, show: Callable[[Entry, Tile, float], None]
) -> dict[str, Tile]:
    """The fastest tile of each entry; one whose launch fails is passed over, and an entry without any is left out."""
    chosen: dict[str, Tile] = {}
    for entry in entries:
        found = [(seconds, tile) for tile in tiles(entry) if (seconds := _time(entry, tile, device, timer)) is not None]
        if found:
            seconds, chosen[entry.key] = min(found, key=lambda pair: pair[0])
            show(entry, chosen[entry.key], seconds)
    return chosen


def _time(entry: Entry, tile: Tile, device: torch.device, timer: Timer) -> float | None:
    from triton.runtime.errors import OutOfResources

    plan = realized(entry.plan(tile), device)
    try:
        return timer(lambda: run(plan))
    except OutOfResources:
        return None
