"""One kernel launch as data: to run on a GPU, to compile for one that is not there, to count, or to emulate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Argument = Tensor | int | float | None


# not frozen, which would take four times as long to make: a small model waits for its host
@dataclass(slots=True)
class Launch:
    """`kernel` on a `grid`, with what it is given at run time and what it is compiled for.

    `flops` and `bytes` are what the operation cannot do without: every operand read once, every result written once.
    """

    kernel: Any  # a triton.jit function
    grid: tuple[int, int]
    arguments: dict[str, Argument]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    flops: int = 0
    bytes: int = 0

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def device(self) -> torch.device:
        for value in self.arguments.values():
            if isinstance(value, Tensor):
                return value.device
        raise ValueError(f"{self.name} is given no tensor")

    def run(self) -> None:
        """Launch it on the current stream of its tensors' device; on `meta`, where nothing is computed, do nothing."""
        device = self.device
        kind = device.type
        if kind == "meta":
            return
        if kind == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._launch()
        else:
            self._launch()

    def _launch(self) -> None:
        _launcher()(self.kernel, self.grid, self.arguments, self.constants, (self.warps, self.stages))


@functools.cache
def _launcher() -> Callable[..., None]:
    """Plans are made, and this module imported, where Triton is not installed."""
    from galore.kernels.triton.direct import launch

    return launch


def run(plan: list[Launch]) -> None:
    """The launches of one operation, in order."""
    for launch in plan:
        launch.run()


def blocks(count: int, size: int) -> int:
    """⌈count / size⌉."""
    return -(-count // size)
