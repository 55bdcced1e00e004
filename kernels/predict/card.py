"""What a GPU offers, as far as a prediction needs it: published figures, and assumptions that are marked as such."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Card:
    """Figures of a GPU, per second and for the whole card unless said otherwise.

    `l2_bandwidth` is an assumption for lack of a published figure; so are the shares of the peaks that long transfers
    and matrix products come to.
    """

    name: str  # as the driver says it
    capability: int  # compute capability, 89 for 8.9
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
    capability=89,
    multiprocessors=128,
    clock=2.52e9,
    memory_bandwidth=1008e9,
    l2_bandwidth=4.5e12,
    tensor_flops={"bf16": 165.2e12, "tf32": 82.6e12, "int8": 660.6e12, "e4m3": 330.3e12},
)

_HOPPER = {"bf16": 989.4e12, "tf32": 494.7e12, "int8": 1978.9e12, "e4m3": 1978.9e12}
H100 = Card(
    "NVIDIA H100 80GB HBM3",
    capability=90,
    multiprocessors=132,
    clock=1.83e9,
    memory_bandwidth=3350e9,
    l2_bandwidth=5.5e12,
    tensor_flops=_HOPPER,
    warps=64,
    blocks=32,
    shared=233_472,
)
H200 = replace(H100, name="NVIDIA H200", memory_bandwidth=4800e9)
CARDS = (RTX4090, H100, H200)


def card_named(name: str) -> Card | None:
    """The card that the driver calls `name`; None where its figures are not known."""
    return next((card for card in CARDS if card.name == name), None)
