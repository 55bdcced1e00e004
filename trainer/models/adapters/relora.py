"""ReLoRA: adapters merged into the frozen weights every so often and started anew (Lialin et al., arXiv 2307.05695).

Each adapter is of rank r, their sum over the restarts is not. Of the paper's ways to forget what Adam knows of the old
adapter (99 % of the moments by magnitude, a random share, all) it is all here, the step count of the bias correction
included; what is trained in full beside the adapters keeps its moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.ops.projection import lift_update_
from galore.kernels.storage.rounding import RoundingNoise, mix
from galore.trainer.optim import GaLoreAdamW

ADAPTER = "default"  # peft's name of the one it adds
DRAW, ROUND = 0xAD4B, 0x4E26  # what sets these random numbers apart from all others of (seed, step)


@dataclass(frozen=True)
class Adapted:
    """A frozen weight W (m, n) and its adapter: W + scaling · B A."""

    weight: nn.Parameter
    a: nn.Parameter  # (r, n)
    b: nn.Parameter  # (m, r)
    scaling: float


@torch.no_grad()
def restart_adapters(model: nn.Module, optimizer: GaLoreAdamW, *, seed: int, step: int, stochastic: bool) -> int:
    """W ← W + scaling·B A for every adapter of `model`; then A drawn anew, B = 0, and both without moments.

    B A is formed in fp32 and added once: a bf16 W is rounded stochastically, for most of a small update would be lost
    to the nearest. All that is random is a function of (seed, step, layer). `optimizer.torn` is set while some layers
    are merged and others are not: what is there then must not be saved.

    Args:
        step: optimizer steps of the run so far.
        stochastic: False rounds to nearest.

    Returns:
        How many adapters were restarted.
    """
    layers = list(adapted_layers(model))
    rounded = [layer.weight.device for layer in layers if layer.weight.dtype == torch.bfloat16]
    noise = RoundingNoise(mix(seed, ROUND), step, rounded[0]) if stochastic and rounded else None
    optimizer.torn = True
    for index, layer in enumerate(layers):
        optimizer.before_write(layer.weight)
        _merge(layer, noise, index)
        layer.a.copy_(_drawn(layer.a, mix(seed, DRAW, step, index)))
        layer.b.zero_()
        for parameter in (layer.a, layer.b):
            optimizer.state[parameter].clear()
    optimizer.torn = False
    return len(layers)


def adapted_layers(model: nn.Module) -> Iterator[Adapted]:
    """Every layer that peft has put an adapter beside, in the model's order."""
    for module in model.modules():
        layer: Any = module
        if isinstance(getattr(layer, "lora_A", None), nn.ModuleDict):
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            yield Adapted(layer.get_base_layer().weight, a, b, float(layer.scaling[ADAPTER]))


def _merge(layer: Adapted, noise: RoundingNoise | None, index: int) -> None:
    a, b = layer.a.float(), layer.b.float()

    def rows(first: int, last: int) -> Tensor:
        return b[first:last] @ a

    lift_update_(layer.weight.data, None, None, alpha=layer.scaling, noise=noise, tensor=index, dense=rows)


def _drawn(like: Tensor, seed: int) -> Tensor:
    """A new A as peft draws it: Kaiming uniform, in float32."""
    generator = torch.Generator().manual_seed(seed)
    return nn.init.kaiming_uniform_(torch.empty(like.shape, dtype=torch.float32), a=math.sqrt(5), generator=generator)
