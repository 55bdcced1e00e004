"""How fast a card does each kind of work: published figures, and what share of them is reached, from least to most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from galore.kernels.triton.launch import blocks
from galore.trainer.machine.cards import Card
from galore.trainer.machine.gpus import Gpu, gpu_called
from galore.trainer.memory.trace.trace import Operation
from galore.trainer.time.work import Work, work_of


class Shares(NamedTuple):
    """Reached parts of the published peaks, and seconds of the host for each thing it asks for.

    Attributes:
        product: of the tensor cores' peak by a large matrix product, its last wave of tiles apart.
        eight: of their peak in 8 bits by our product of codes, which scales each group's sum.
        attention: the same by a flash kernel, forward and backward together.
        memory: of the memory's bandwidth by a pass over a large tensor. `bus`: of PCI Express by pinned copies.
        decomposition: of the shader's peak by cuSOLVER.
        operation, view, launch: seconds of the host for an operation of torch's, for a view, for a Triton kernel.
    """

    product: float
    eight: float
    attention: float
    memory: float
    bus: float
    decomposition: float
    operation: float
    view: float
    launch: float


# (least, most). Products: chosen so that published runs of LLMQ come out right, two on an RTX 4090 and one on an H100
# (bench/durations.py compares with others). A GeForce runs above its nominal clock, a data-center card is held back by
# its power. What concerns the host is assumed. Products in 8 bits: from what a tile whose operands the L2 has to bring
# again and again should reach by kernels/predict/cost.py to what the best one should; none was timed.
GEFORCE = (
    Shares(0.98, 0.55, 0.60, 0.80, 0.60, 0.002, 10e-6, 2.5e-6, 40e-6),
    Shares(1.12, 0.75, 0.90, 0.93, 0.80, 0.012, 4e-6, 1e-6, 12e-6),
)
# The slower host of a data-center card is a virtual machine beside an H200, whose step of 11,900 launches took 0.41 s.
DATA_CENTER = (
    GEFORCE[0]._replace(product=0.66, attention=0.35, operation=30e-6, view=7e-6, launch=120e-6),
    GEFORCE[1]._replace(product=0.80, attention=0.60),
)

CACHE = 4.0  # times the memory's bandwidth, of an L2 that holds the operands
LARGE_CACHE = 24 << 20  # bytes from which an L2 holds what a layer passes on
KERNEL = 2.5e-6  # seconds that the shortest takes on the card
DECOMPOSED = 1e-3  # seconds of the shortest decomposition: dozens of small kernels, one after the other
TILES = {(128, 256): 1.0, (128, 128): 0.97, (128, 64): 0.85, (64, 64): 0.65}  # → share, one wave after the other
EIGHT = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}  # → whose peak it is, of a Gpu
PROLOGUE = 64  # summands that a tile takes longer for its first loads and its result


@dataclass(frozen=True)
class CardRates:
    """A card at given shares of its published figures."""

    gpu: Gpu
    multiprocessors: int
    shares: Shares
    beside = True

    def seconds(self, operation: Operation) -> float:
        return self.of(work_of(operation))

    def asked(self, operation: Operation) -> float:
        kind = work_of(operation).kind
        if kind in ("kernel", "to host", "from host"):
            return self.shares.launch
        return self.shares.view if kind == "nothing" else self.shares.operation

    def of(self, work: Work) -> float:
        """Time on the card; of a copy over the bus on the bus."""
        if work.kind == "nothing":
            return 0.0
        if work.kind in ("to host", "from host"):
            return work.nbytes / (self.gpu.bus * self.shares.bus)
        if work.kind == "decomposition":
            return DECOMPOSED + work.flops / (self.gpu.shader * self.shares.decomposition)
        return max(KERNEL, self._computed(work), self._moved(work.nbytes))

    def _peak(self, dtype: torch.dtype) -> float:
        if dtype in EIGHT:
            return self.gpu.tensor * (getattr(self.gpu, EIGHT[dtype]) or 1.0)
        return self.gpu.tensor if dtype.itemsize <= 2 else self.gpu.shader

    def _computed(self, work: Work) -> float:
        peak = self._peak(work.dtype)
        if work.kind == "product":
            return self._product(work.shape, peak * self.shares.product)
        if work.kind == "kernel" and work.dtype in EIGHT:
            return work.flops / (peak * self.shares.eight)
        if work.kind == "attention":
            return work.flops / (peak * self.shares.attention)
        return work.flops / (peak * self.shares.product)

    def _product(self, shape: tuple[int, ...], peak: float) -> float:
        """The best tile: whole waves of them over the multiprocessors."""
        batch, m, n, k = shape
        if not batch * m * n:
            return 0.0
        each = peak / self.multiprocessors

        def waves(tile: tuple[int, int], share: float) -> float:
            count = batch * blocks(m, tile[0]) * blocks(n, tile[1])
            # a product with few tiles and many summands is split along these
            split = max(1, min(self.multiprocessors // count, k // 512)) if count < self.multiprocessors else 1
            summands = blocks(k, split) + PROLOGUE
            return blocks(count * split, self.multiprocessors) * 2.0 * tile[0] * tile[1] * summands / (each * share)

        return min(waves(tile, share) for tile, share in TILES.items())

    def _moved(self, nbytes: float) -> float:
        rate = self.gpu.bandwidth * self.shares.memory
        cached = self.gpu.cache >= LARGE_CACHE and nbytes <= self.gpu.cache / 2
        return nbytes / (rate * CACHE if cached else rate)


def card_rates(card: Card) -> tuple[CardRates, CardRates] | None:
    """(the slowest, the fastest) that `card` is expected to be; None where its figures are not known."""
    gpu = gpu_called(card.name)
    if gpu is None:
        return None
    slow, fast = GEFORCE if "GeForce" in card.name else DATA_CENTER
    return CardRates(gpu, card.sms, slow), CardRates(gpu, card.sms, fast)
