"""Weights in parts on all ranks, by PyTorch's FSDP2: a block is gathered for its forward and its backward, no longer.

Gradients of projected weights never reach FSDP2: their slots take them while the weight is whole, and only R goes on.
What is not projected has its gradient summed and cut by FSDP2's own reduce-scatter, after every micro-batch, so that no
whole one outlives its block's backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.parallel.entered import ENTERED
from galore.trainer.parallel.group import Group, all_gather, reaching, reduce_scatter


def shard(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    group: Group,
    device: torch.device,
    sums: torch.dtype,
    along: Mapping[int, int],
) -> None:
    """Leave this rank its part of every parameter of `model`, on `device`, in place.

    Args:
        blocks: what is gathered at once, from the first to the last; all else is gathered together.
        sums: what gradients are added up in, over the ranks.
        along: dimension that a parameter is cut along, by its id; the first, where none is named.
    """
    cut = dict(along)
    for layer in int8_layers(model):  # as a parameter its scales are cut and gathered with the codes
        scales = nn.Parameter(layer.weight_scale, requires_grad=False)
        del layer._buffers["weight_scale"]
        layer.register_parameter("weight_scale", scales)
        cut[id(scales)] = cut.get(id(layer.weight), 0)
    mesh = init_device_mesh(device.type, (group.size,))
    gather, scatter = _Gather(group), _Scatter(group)
    _let_in(model)
    for unit in (*blocks, model):
        fully_shard(
            unit,
            mesh=mesh,
            shard_placement_fn=lambda parameter: Shard(cut.get(id(parameter), 0)),
            mp_policy=MixedPrecisionPolicy(reduce_dtype=sums, cast_forward_inputs=False),
        )
        assert isinstance(unit, FSDPModule)
        # a sum: the loss is divided by the targets of all ranks
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_custom_all_gather(gather)  # type: ignore[arg-type]
        unit.set_custom_reduce_scatter(scatter)  # type: ignore[arg-type]


def hand_over(model: nn.Module, optimizer: GaLoreAdamW) -> None:
    """Let the slots of projected weights take the gradients of what FSDP2 gathers, before it could send them."""
    slots = {id(slot.parameter): slot for slot in optimizer.projected}
    for unit in [module for module in model.modules() if isinstance(module, FSDPModule)]:
        places = [
            (module, name, slots[id(parameter)])
            for module in _own(unit)
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) in slots and parameter.requires_grad
        ]
        if not places:
            continue
        unit.unshard()
        for module, name, slot in places:
            optimizer.stands_for(getattr(module, name), slot)
        unit.reshard()


def _own(unit: nn.Module) -> list[nn.Module]:
    """The modules under `unit` that no FSDP2 module below it takes."""
    found = [unit]
    for child in unit.children():
        found += [] if isinstance(child, FSDPModule) else _own(child)
    return found


def _let_in(model: Any) -> None:
    """Let the forward of `model` take a call, see `entered`."""
    own = model.forward

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        call: Callable[[], Any] | None = kwargs.pop(ENTERED, None)
        return own(*args, **kwargs) if call is None else call()

    model.__dict__["forward"] = forward


class _Collective:
    """One of FSDP2's two, counted; a rank that is gone is told as everywhere."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Collective):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        self.group.sent["weights"] += input_tensor.nbytes
        with reaching(self.group):
            work: dist.Work | None = all_gather(output_tensor, input_tensor, group=group, async_op=async_op)
        return work


class _Scatter(_Collective):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        self.group.sent["gradients"] += input_tensor.nbytes
        with reaching(self.group):
            work: dist.Work | None = reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)
        return work
