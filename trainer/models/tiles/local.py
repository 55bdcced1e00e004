"""Which parts of a network are known to work on each token by itself, and why others are not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from galore.trainer.models.linears import is_plain
from galore.trainer.optim.int8_linear import Int8Linear

ELEMENTWISE = ("torch.nn.modules.activation", "transformers.activations")  # where such modules are from
ACROSS = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.MultiheadAttention)  # of those, what is not
HOLDERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential, nn.ParameterDict)
EXPERTS = ("experts", "router", "gate_up_proj_experts")  # parts of a mixture's modules


def candidates(model: nn.Module) -> Iterator[nn.Module]:
    """Parts of blocks that take one tensor, and all norms."""
    norms = [module for module in model.modules() if _is_norm(module)]
    parts = {
        id(part): part
        for block in model.modules()
        if isinstance(block, GradientCheckpointingLayer)
        for part in block.children()
        if len(_arguments(part)) == 1 and any(True for _ in part.children())
    }
    yield from parts.values()
    yield from norms


def _is_norm(module: nn.Module) -> bool:
    alone = not any(True for _ in module.children()) and [p.ndim for p in module.parameters()] in ([1], [1, 1])
    named = type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and hasattr(module, "weight")
    return alone and named and len(_arguments(module)) == 1


def _arguments(module: nn.Module) -> list[str]:
    return [name for name in inspect.signature(type(module).forward).parameters if name != "self"]


def obstacle(module: nn.Module) -> str | None:
    """Why `module` has to stay whole, as far as its parts show it; None where it need not."""
    if "forward" in module.__dict__:
        return "something else has replaced its forward"
    inside = [(name, each) for name, each in module.named_modules() if each is not module]
    if any(part in name.split(".") for name, _ in inside for part in EXPERTS):
        return "a mixture of experts, which sorts tokens"
    drops = any(isinstance(each, nn.Dropout) and each.p > 0 for _, each in inside)
    if drops or "dropout(" in inspect.getsource(type(module).forward).replace("self.dropout(", ""):
        return "dropout, which would be drawn otherwise"
    others = sorted({type(each).__name__ for _, each in inside if not _is_of_tokens(each)})
    return f"it has {', '.join(others)}, which may look at several tokens" if others else None


def _is_of_tokens(module: nn.Module) -> bool:
    """Whether a part of a feed-forward network is known to work on each token by itself."""
    if isinstance(module, (nn.Linear, Conv1D, nn.Identity, nn.Dropout, *HOLDERS)):
        return not isinstance(module, nn.Linear) or is_plain(module) or _is_adapter(module)
    elementwise = type(module).__module__ in ELEMENTWISE and not isinstance(module, ACROSS)
    return elementwise or _is_norm(module) or _is_adapter(module)


def _is_adapter(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("peft.tuners.lora", "galore.trainer.models.adapters"))


def vector_size(module: nn.Module) -> int:
    """Size of the vectors that `module` takes."""
    first = next((each for each in module.modules() if isinstance(each, (nn.Linear, Conv1D))), None)
    if isinstance(first, nn.Linear):
        return int(first.in_features)
    weight = next(module.parameters()) if first is None else first.weight
    return int(weight.shape[0])


@torch.no_grad()
def obstacle_seen(module: nn.Module) -> str | None:
    """What two tokens show of a module that keeps it from being tiled; on `meta`, where nothing is computed, less."""
    parameter = next(iter(module.parameters()))
    dtype = next((each.dtype for each in module.modules() if isinstance(each, Int8Linear)), parameter.dtype)
    values = torch.linspace(-1, 1, 3 * vector_size(module), device=parameter.device, dtype=torch.float32)
    first, second, third = values.to(dtype).view(3, -1)
    one, other = (torch.stack([first, each])[None] for each in (second, third))
    try:
        found, again = module(one), module(other)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return "it takes something else than vectors of tokens"
    if not isinstance(found, Tensor) or found.shape != one.shape or found.dtype != one.dtype:
        return "its result has another shape or type than what it takes"
    return None if found.is_meta or torch.equal(found[0, 0], again[0, 0]) else "tokens see each other in it"
