"""What arrives in bf16 weights of small updates, and what keeping it costs: `python bench/rounding.py [--steps 3000]`."""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from torch import Tensor

from galore.kernels.storage.rounding import (
    RoundingNoise,
    add_update_,
    add_update_compensated_,
    block_elements,
    read_compensated,
)

SCALES = (1e-4, 2e-5, 1e-6)  # of one step's random part, for weights of 0.02; the constant part is 0.3 of it
ELEMENTS = 1 << 13
TIMED = 1 << 22
ROUNDS = 7
CPU = torch.device("cpu")

STORAGES: dict[str, tuple[torch.dtype, torch.dtype | None, bool]] = {  # weight, compensation, stochastic
    "fp32": (torch.float32, None, False),
    "bf16, to nearest": (torch.bfloat16, None, False),
    "bf16, stochastic": (torch.bfloat16, None, True),
    "bf16 + bf16 (Kahan)": (torch.bfloat16, torch.bfloat16, False),
    "bf16 + int8": (torch.bfloat16, torch.int8, False),
    "bf16 + int8, stochastic": (torch.bfloat16, torch.int8, True),
    "bf16 + int16": (torch.bfloat16, torch.int16, False),
}


class Weight:
    def __init__(self, start: Tensor, dtype: torch.dtype, extra: torch.dtype | None, stochastic: bool) -> None:
        self.w, self.stochastic = start.to(dtype, copy=True), stochastic
        self.extra = None if extra is None else torch.zeros(start.shape, dtype=extra)

    def add(self, update: Tensor, noise: Tensor) -> None:
        size = block_elements(self.w)
        for first in range(0, self.w.numel(), size):
            block = slice(first, first + size)
            self._add(block, update[block], noise[block] if self.stochastic else None)

    def value(self) -> Tensor:
        if self.extra is None:
            return self.w.float()
        kahan = self.extra.dtype == torch.bfloat16
        return self.w.float() + self.extra.float() if kahan else read_compensated(self.w, self.extra)

    def bytes(self) -> int:
        return self.w.element_size() + (0 if self.extra is None else self.extra.element_size())

    def _add(self, block: slice, update: Tensor, noise: Tensor | None) -> None:
        if self.extra is None:
            add_update_(self.w[block], update, alpha=1.0, decay=1.0, noise=noise)
        elif self.extra.dtype == torch.bfloat16:
            whole = self.w[block].float().add_(self.extra[block]).add_(update)
            self.w[block] = whole
            self.extra[block] = whole.sub_(self.w[block])
        else:
            add_update_compensated_(self.w[block], self.extra[block], update, alpha=1.0, decay=1.0, noise=noise)


def walk(weights: list[Weight], scale: float, steps: int) -> list[tuple[float, float]]:
    generator = torch.Generator().manual_seed(1)
    start = weights[0].value().double()
    exact, direction = start.clone(), 0.3 * torch.randn(ELEMENTS, generator=generator)
    for step in range(steps):
        lr = scale * 0.5 * (1 + math.cos(math.pi * step / steps))
        update = -lr * (direction + torch.randn(ELEMENTS, generator=generator))
        noise = RoundingNoise(1, step // 50, CPU).window(step, 0, ELEMENTS)
        exact += update.double()
        for weight in weights:
            weight.add(update, noise)
    intended, values = exact - start, [weight.value().double() for weight in weights]
    shares = [((value - start) @ intended / intended.square().sum()).item() for value in values]
    errors = [((value - exact).norm() / intended.norm()).item() for value in values]
    return list(zip(shares, errors, strict=True))


def make(elements: int) -> list[Weight]:
    start = (0.02 * torch.randn(elements, generator=torch.Generator().manual_seed(0))).bfloat16()
    return [Weight(start, *storage) for storage in STORAGES.values()]


def milliseconds() -> list[float]:
    weights, update = make(TIMED), 1e-4 * torch.randn(TIMED)
    noise = torch.randint(0, 1 << 16, (TIMED,), dtype=torch.int32)
    seconds: list[list[float]] = [[] for _ in weights]
    for _ in range(ROUNDS):
        for weight, taken in zip(weights, seconds, strict=True):
            began = time.thread_time()
            weight.add(update, noise)
            taken.append(time.thread_time() - began)
    return [1e3 * statistics.median(taken) for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    columns = [walk(make(ELEMENTS), scale, steps) for scale in SCALES]
    titles = [f"arrives at {scale:.0e} | error" for scale in SCALES]
    print(f"| {steps} steps | bytes | CPU ms for 2²² weights | {' | '.join(titles)} |")
    print("|" + "---|" * (3 + 2 * len(SCALES)))
    for name, weight, ms, *cells in zip(STORAGES, make(1), milliseconds(), *columns, strict=True):
        figures = " | ".join(f"{100 * share:.2f} % | {error:.1e}" for share, error in cells)
        print(f"| {name} | {weight.bytes()} | {ms:.1f} | {figures} |")


if __name__ == "__main__":
    main()
