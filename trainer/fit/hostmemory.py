"""What a run needs of host memory, pinned and pageable, from start to saving, and what crosses the bus in a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from galore.kernels.device import device_type, meta_stands_for
from galore.trainer.build import build_model
from galore.trainer.checkpoint.state import model_tensors
from galore.trainer.checkpoint.tensorfile import tensor_bytes
from galore.trainer.common.format import GIB
from galore.trainer.host.blocks import on_device, streamed
from galore.trainer.host.places import traffic
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.hostsum import HostSum
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.parameters import planned_vocabulary
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe

INPUTS = "inputs of recomputed blocks"
START, TRAINING, SAVING = "start", "training", "saving"
PROCESS = {"cpu": 0.6 * GIB, "cuda": 3.0 * GIB}  # interpreter, libraries, data: measured on a CPU, assumed with CUDA
SYSTEM = 2 * GIB  # of a machine's memory that others use: assumed
SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # GiB that machines are sold with


@dataclass(frozen=True)
class HostProfile:
    """Bytes of host memory. `pinned`: what is locked all along, by what it is; `pageable`: beside it, by phase.

    Attributes:
        bus: bytes to the device and back in one ordinary step.
        micro_batch: the same in one forward and backward, of weights alone.
    """

    pinned: dict[str, int]
    pageable: dict[str, int]
    process: int
    bus: tuple[int, int]
    micro_batch: int

    @property
    def phases(self) -> dict[str, int]:
        """Bytes in each phase; before training starts, what is pinned replaces what is pageable."""
        lasting = sum(self.pinned.values())
        return {name: nbytes + (0 if name == START else lasting) for name, nbytes in self.pageable.items()}

    @property
    def total(self) -> int:
        """The most of all phases, the process itself included."""
        return max(self.phases.values()) + self.process

    @property
    def matters(self) -> bool:
        """Whether anything waits on the host."""
        return any(self.pinned.values())

    @property
    def least_machine(self) -> int | None:
        """GiB of the smallest machine that is sold and holds it."""
        return next((size for size in SIZES if self.fits(size)), None)

    def fits(self, ram: float) -> bool:
        """Whether a machine with so many GiB holds it."""
        return self.total <= ram * GIB - SYSTEM

    def together(self, processes: int, copy: int) -> HostProfile:
        """What so many processes of one machine need; each builds a `copy` of so many bytes, the first alone saves."""
        pinned = {what: processes * nbytes for what, nbytes in self.pinned.items()}
        pageable = self.pageable | {START: processes * (self.pageable[START] + copy)}
        return replace(self, pinned=pinned, pageable=pageable, process=processes * self.process)

    def as_json(self, ram: float | None) -> dict[str, Any]:
        """Bytes throughout."""
        return {
            "total_bytes": self.total,
            "pinned_bytes": self.pinned,
            "phases": {name: nbytes + self.process for name, nbytes in self.phases.items()},
            "process_bytes": self.process,
            "bus_bytes_per_step": {"to_device": self.bus[0], "to_host": self.bus[1]},
            "ram_bytes": None if ram is None else round(ram * GIB),
            "fits": None if ram is None else self.fits(ram),
            "least_machine_gib": self.least_machine,
        }


def host_profile(loaded: LoadedRecipe, kind: str, micro_batches: int | None = None, processes: int = 1) -> HostProfile:
    """What `loaded` needs of the host of devices of that `kind`, "cuda" or "cpu".

    Args:
        micro_batches: of a step, where they are others than the recipe's.
        processes: on one machine; the bus is that of each.

    Raises:
        UserError: the model cannot be built.
    """
    with meta_stands_for(kind):
        model, _ = build_model(loaded.recipe, planned_vocabulary(loaded)[0], "meta", loaded.base_dir)
        optimizer = attach_optimizer(model, loaded.recipe, loaded.recipe.train.accumulation)
        found = profiled(loaded.recipe, model, optimizer, micro_batches or loaded.recipe.train.accumulation)
    if processes == 1:
        return found
    return found.together(processes, tensor_bytes(model_tensors(model)) if loaded.recipe.parallel.mode == "fsdp" else 0)


def profiled(recipe: Recipe, model: nn.Module, optimizer: GaLoreAdamW, micro_batches: int) -> HostProfile:
    """The profile of a model and an optimizer that are built, for steps of so many micro-batches."""
    blocks, sums, inputs = streamed(model), host_sums(optimizer), _inputs(recipe, model)
    sizes = [] if blocks is None else blocks.sizes
    pinned = {
        "blocks of weights": sum(sizes),
        "gradient sums": sum(each.numel() * dtype.itemsize for each, dtype in sums),
        INPUTS: sum(map(_rounded_up, inputs)),
    }
    to_device, to_host = _weights(recipe, model, optimizer, micro_batches)
    there, back = _of_sums(sums, micro_batches)
    once = sum(inputs) * micro_batches, sum(inputs[:-1]) * micro_batches
    return HostProfile(
        pinned,
        {START: _at_start(recipe, model), TRAINING: 0, SAVING: _while_saving(model, optimizer)},
        round(PROCESS[device_type(next(model.parameters()))]),
        (to_device + there + once[1], to_host + back + once[0]),
        0 if blocks is None else traffic(sizes, blocks.places.count, 1, trained=False)["fetch"],
    )


def host_sums(optimizer: GaLoreAdamW) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Parameters whose summed gradients wait on the host, and the type that they are summed in."""
    slots = optimizer.slots.values()
    held = [(slot, slot.refresh.whole if isinstance(slot, ProjectedSlot) else slot.sum) for slot in slots]
    return [(slot.parameter, each.dtype) for slot, each in held if isinstance(each, HostSum)]


def _weights(recipe: Recipe, model: nn.Module, optimizer: GaLoreAdamW, micro_batches: int) -> tuple[int, int]:
    blocks = streamed(model)
    if blocks is None:
        return 0, 0
    trained = any(blocks.holds(slot.parameter) for slot in optimizer.slots.values())
    if recipe.optim.update == "immediate":
        back = sum(blocks.sizes)
        return traffic(blocks.sizes, blocks.places.count, micro_batches, trained=False)["fetch"], back
    moved = traffic(blocks.sizes, blocks.places.count, micro_batches, trained)
    return moved["fetch"], moved["send"]


def _of_sums(sums: list[tuple[nn.Parameter, torch.dtype]], micro_batches: int) -> tuple[int, int]:
    """Bytes to the device and back: a sum comes and goes in every micro-batch but the first, in which it goes; it comes
    for the norm and for the update."""
    there = back = 0
    for parameter, dtype in sums:
        first, wide = (parameter.numel() * min(size, dtype.itemsize) for size in (_gradient(parameter), dtype.itemsize))
        last = first if micro_batches == 1 else wide
        back += first + (micro_batches - 1) * wide
        there += (first + (micro_batches - 2) * wide if micro_batches > 1 else 0) + 2 * last
    return there, back


def _gradient(parameter: nn.Parameter) -> int:
    """Bytes of one element of a gradient; codes have theirs in half precision."""
    return parameter.dtype.itemsize if parameter.is_floating_point() else 2


def _inputs(recipe: Recipe, model: nn.Module) -> list[int]:
    """Bytes of the inputs of recomputed blocks that wait on the host, in the order of the blocks."""
    if not recipe.train.offload_activations or device_type(next(model.parameters())) != "cuda":
        return []
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    width = int(model.get_input_embeddings().weight.shape[1])  # type: ignore[operator]
    each = recipe.train.micro_batch_size * recipe.data.max_length * width * getattr(torch, recipe.model.dtype).itemsize
    return [each for module in layers if module.gradient_checkpointing]


def _rounded_up(nbytes: int) -> int:
    """What torch's allocator of pinned memory takes."""
    return 1 << max(0, nbytes - 1).bit_length()


def _at_start(recipe: Recipe, model: nn.Module) -> int:
    """Weights as they are drawn or read, before they go where they stay; stored ones are mapped, not copied."""
    drawn = recipe.model.name_or_path is None or recipe.model.random_init
    largest = max((_drawn_together(module) for module in model.modules()), default=0) if drawn else 0
    blocks = streamed(model)
    weights = tensor_bytes(model_tensors(model)) if blocks is not None else 0
    return weights + max(4 * largest, 0 if blocks is None else max(blocks.sizes))


def _drawn_together(module: nn.Module) -> int:
    """Elements that are drawn in fp32 before they are rounded: of a block, or of a layer outside."""
    whole = isinstance(module, GradientCheckpointingLayer)
    return sum(parameter.numel() for parameter in module.parameters(recurse=whole))


def _while_saving(model: nn.Module, optimizer: GaLoreAdamW) -> int:
    """The largest tensor of the device: one at a time is copied to the host on its way to the disk."""
    if device_type(next(model.parameters())) == "cpu":
        return 0
    states = (tensor for slot in optimizer.slots.values() for tensor in slot.planned_state().values())
    return max(tensor.nbytes for tensor in (*within_device(model), *states))


def within_device(model: nn.Module) -> list[torch.Tensor]:
    """Weights and buffers that are not streamed."""
    blocks = streamed(model)
    return [each for each in on_device(model) if blocks is None or not any(each is place for place in blocks.arena)]
