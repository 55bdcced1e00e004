"""What a GPU offers, as far as a prediction needs it: published figures, and two assumptions that are marked as such."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Per second and for the whole card unless said otherwise.

    `l2_bandwidth` is an assumption for lack of a published figure; so are the shares of the peaks that long transfers and
    matrix products come to.
    """

    name: str
    multiprocessors: int
    clock: float
    memory_bandwidth: float
    l2_bandwidth: float
    tensor_flops: dict[str, float]
    registers: int = 65_536  # per multiprocessor
    warps: int = 48
    blocks: int = 24
    shared: int = 102_400
    reserved_shared: int = 1024  # per block
    schedulers: int = 4  # each issues one instruction of a warp per clock
    memory_share: float = 0.92
    tensor_share: float = 0.85
    launch: float = 3e-6  # seconds


RTX4090 = Card(
    "NVIDIA GeForce RTX 4090",
    multiprocessors=128,
    clock=2.52e9,
    memory_bandwidth=1008e9,
    l2_bandwidth=4.5e12,
    tensor_flops={"bf16": 165.2e12, "tf32": 82.6e12, "e4m3": 330.3e12},
)
