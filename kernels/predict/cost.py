"""How long a launch should take, by its compiled code, its grid and the card's figures alone. Predicted, not timed.

    tensor  = ⌈programs / SMs⌉ · FLOPs of a tile, padding included / (peak per SM · share)
    memory  = bytes that must move / (bandwidth · share)
    L2      = operand tiles of all programs / L2 bandwidth
    issue   = warps · instructions · programs of the busiest SM / (4 per clock)

They overlap, though not perfectly: two that are equal take 1.19 times one (the sum of their fourth powers counts). What
comes after a tile's sums is hidden only where another block shares the SM.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from galore.kernels.predict.card import Card
from galore.kernels.predict.compiled import Resources
from galore.kernels.triton.eight import FORMATS
from galore.kernels.triton.launch import Launch, blocks

OVERLAP = 4  # power of the mean of what goes on at the same time; an assumption
NAMES = {torch.int8: "int8", torch.float8_e4m3fn: "e4m3"}
HIDDEN_FROM = 2  # blocks per SM from which one computes while another waits


@dataclass(frozen=True)
class Prediction:
    """Seconds, and what they are made of."""

    seconds: float
    tensor: float
    memory: float
    l2: float
    issue: float
    blocks_per_sm: int
    waves: float

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {"tensor cores": self.tensor, "memory": self.memory, "L2": self.l2, "issue": self.issue}
        return max(parts, key=lambda name: parts[name])


def occupancy(used: Resources, warps: int, card: Card) -> int:
    """Blocks that fit a multiprocessor together."""
    registers = blocks(used.registers * 32, 256) * 256 * warps
    limits = (
        card.blocks,
        card.warps // warps,
        card.registers // registers,
        card.shared // (used.shared + card.reserved_shared),
    )
    return max(1, min(limits))


def predict(launch: Launch, used: Resources, card: Card) -> Prediction:
    """Time of one launch that finds nothing in the caches."""
    programs = launch.grid[0] * launch.grid[1]
    resident = occupancy(used, launch.warps, card)
    busiest = blocks(programs, card.multiprocessors)
    tile = _Tile.of(launch)
    peak = card.tensor_flops[tile.dtype] * card.tensor_share / card.multiprocessors
    tensor = busiest * tile.flops / peak
    memory = launch.bytes / (card.memory_bandwidth * card.memory_share)
    l2 = programs * tile.bytes / card.l2_bandwidth
    rate = card.schedulers * card.clock
    inside = busiest * launch.warps * used.loop * tile.rounds / rate
    outside = busiest * launch.warps * (used.instructions - used.loop) / rate
    hidden = resident >= HIDDEN_FROM
    issue = inside + outside if hidden else inside
    seconds = sum(x**OVERLAP for x in (tensor, memory, l2, issue)) ** (1 / OVERLAP) + (0.0 if hidden else outside)
    waves = programs / (card.multiprocessors * resident)
    return Prediction(seconds + card.launch, tensor, memory, l2, inside + outside, resident, waves)


def roofline(flops: float, moved: float, card: Card, dtype: str = "bf16") -> float:
    """Seconds that an operation cannot take less than: published peaks, no share, no launch."""
    return max(flops / card.tensor_flops[dtype], moved / card.memory_bandwidth)


@dataclass(frozen=True)
class _Tile:
    """One program's part of a product; nothing where there is none."""

    flops: float
    bytes: float
    rounds: int
    dtype: str

    @classmethod
    def of(cls, launch: Launch) -> _Tile:
        if "BM" not in launch.constants:
            return cls(0.0, 0.0, 0, "bf16")
        rows, columns, depth = (int(launch.constants[name]) for name in ("BM", "BN", "BK"))
        whole = int(launch.arguments["K"])  # type: ignore[arg-type]
        summands = min(whole, int(launch.arguments.get("per_split") or whole))
        rounds = blocks(summands, depth)
        size, dtype = _multiplied(launch)
        products = 3 if dtype == "tf32" else 1
        return cls(
            2.0 * rows * columns * rounds * depth * products, size * (rows + columns) * rounds * depth, rounds, dtype
        )


def _multiplied(launch: Launch) -> tuple[int, str]:
    """Bytes of a number that the tensor cores are given, and its kind."""
    if (form := launch.constants.get("FORMAT")) is not None:
        return 1, next(NAMES[dtype] for dtype, number in FORMATS.items() if number == form)
    return (4, "tf32") if str(launch.constants["DTYPE"]) == "fp32" else (2, "bf16")
