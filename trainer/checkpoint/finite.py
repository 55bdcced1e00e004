"""Whether tensors hold numbers only: one pass over each, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from galore.trainer.host.blocks import at_rest
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.optim.parts.shards import local

CHUNK = 2**22  # elements that are looked at one by one, where the sum of all does not answer


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of those that hold an inf or a nan. Codes of quantized tensors hold none; their scales do."""
    return [name for name, tensor in tensors if tensor.is_floating_point() and not _is_finite(tensor)]


def trained_tensors(model: nn.Module, optimizer: GaLoreAdamW) -> Iterator[tuple[str, Tensor]]:
    """All that a step writes to: weights, the scales of those in 8 bits, and what the optimizer keeps."""
    held = at_rest(model)
    yield from ((name, local(held(parameter).detach())) for name, parameter in model.named_parameters())
    names = {module: name for name, module in model.named_modules()}
    yield from ((f"{names[layer]}.weight_scale", local(held(layer.weight_scale))) for layer in int8_layers(model))
    yield from optimizer.state_tensors().items()


def agreed(names: list[str], optimizer: GaLoreAdamW) -> list[str]:
    """`names`, found in the parts that are here; or, where another rank alone has found some, a word that says so."""
    if not optimizer.sharded or optimizer.ranks is None:
        return names
    return names if not optimizer.ranks.total(len(names)) else names or ["tensors of another process"]


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    """A sum that is finite has finite terms only, and takes no memory; one that is not may have overflowed."""
    if tensor.element_size() > 1 and math.isfinite(float(tensor.sum())):  # bytes have no sum
        return True
    flat = tensor.reshape(-1)
    chunks = (flat[start : start + CHUNK] for start in range(0, flat.numel(), CHUNK))
    return all(bool(torch.isfinite(part if part.element_size() > 1 else part.float()).all()) for part in chunks)
