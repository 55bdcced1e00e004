"""Give a model built on the meta device its tensors: freshly drawn, or taken from a checkpoint.

A skeleton on `meta` costs no memory. Weights are then drawn in float32 on the CPU, one decoder block at a time, and cast
at once: float32 and bfloat16 runs start from the same numbers on every device, and the float32 copy of the whole model
never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from galore.trainer.errors import UserError

# transformers skips the initialisation of tensors that carry this flag
_DRAWN = "_is_hf_initialized"


def draw_weights(
    model: PreTrainedModel,
    *,
    dtype: torch.dtype,
    device: str,
    seed: int,
    drawn: Callable[[nn.Module], None] = lambda module: None,
) -> None:
    """Draw every weight of a meta `model` by the model's own `_init_weights`, in place.

    Each module passes through `drawn` once its own weights are there in `dtype`, before they go to `device`.

    The numbers depend on `seed` only; the global random state is as before on return. Buffers, such as the rotary
    frequencies, keep the type they were built with.
    """
    shared: dict[int, nn.Parameter] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the generators of the GPUs
        for unit in _units(model, model):
            for module, _ in unit:
                _allocate(module, shared)
            for module, owner in unit:
                owner._init_weights(module)
            for module, _ in unit:
                _settle(module, dtype, device, drawn)
    for parameter in model.parameters():
        delattr(parameter, _DRAWN)


def adopt_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, device: str) -> None:
    """Give a meta `model` the `tensors` of a checkpoint, {name: tensor}, without a copy where the device agrees.

    A tied weight may be stored under any one of its names. Buffers that no checkpoint holds are computed anew.

    Raises:
        UserError: naming the tensors that are missing, left over or of another shape.
    """
    groups = _parameter_names(model)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in tensors}
    _refuse_mismatch(model, tensors, groups, set(buffers))
    for names in groups:
        stored = next(tensors[name] for name in names if name in tensors)
        trainable = model.get_parameter(names[0]).requires_grad
        parameter = nn.Parameter(stored.to(device), requires_grad=trainable)
        for name in names:
            _set(model, name, parameter)
    for name in buffers:
        _set(model, name, tensors[name].to(device))
    _compute_buffers(model, device)


_Unit = list[tuple[nn.Module, PreTrainedModel]]


def _units(module: nn.Module, owner: PreTrainedModel) -> Iterator[_Unit]:
    """Groups of modules that are initialised together, children first.

    A decoder block is one group, since some models rescale a child's weight from its parent.
    """
    owner = module if isinstance(module, PreTrainedModel) else owner
    if type(module).__name__ in (owner._no_split_modules or ()):
        yield list(_post_order(module, owner))
        return
    for child in module.children():
        yield from _units(child, owner)
    yield [(module, owner)]


def _post_order(module: nn.Module, owner: PreTrainedModel) -> Iterator[tuple[nn.Module, PreTrainedModel]]:
    owner = module if isinstance(module, PreTrainedModel) else owner
    for child in module.children():
        yield from _post_order(child, owner)
    yield module, owner


def _allocate(module: nn.Module, shared: dict[int, nn.Parameter]) -> None:
    """Replace the module's own meta tensors by empty ones on the CPU; a tied weight becomes one tensor again."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            fresh = nn.Parameter(torch.empty_like(parameter, device="cpu", dtype=torch.float32))
            module._parameters[name] = shared.setdefault(id(parameter), fresh)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _settle(module: nn.Module, dtype: torch.dtype, device: str, drawn: Callable[[nn.Module], None]) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    drawn(module)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
        setattr(parameter, _DRAWN, True)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else buffer.to(device)


def _parameter_names(model: nn.Module) -> list[list[str]]:
    """The names of every parameter; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _refuse_mismatch(
    model: nn.Module, tensors: Mapping[str, Tensor], groups: list[list[str]], buffers: set[str]
) -> None:
    known = {name for names in groups for name in names} | buffers
    faults = [f"{names[0]} is missing" for names in groups if not any(name in tensors for name in names)]
    faults += [f"{name} is not in the model" for name in tensors if name not in known]
    shapes = dict(model.named_parameters(remove_duplicate=False))
    for name in sorted(tensors.keys() & shapes.keys()):
        if tensors[name].shape != shapes[name].shape:
            faults.append(f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(shapes[name].shape)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise UserError(f"the stored weights do not fit the model: {'; '.join(faults[:5])}{more}")


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor


def _compute_buffers(model: nn.Module, device: str) -> None:
    """Recompute the buffers that are still on meta, through the model's own initialisation."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            for module, owner in _post_order(part, part):
                if any(buffer is not None and buffer.is_meta for buffer in module._buffers.values()):
                    _allocate(module, {})
                    owner._init_weights(module)
                    for name, buffer in module._buffers.items():
                        module._buffers[name] = None if buffer is None else buffer.to(device)
