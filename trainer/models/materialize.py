"""Give a model built on the meta device its tensors: freshly drawn, or taken from a checkpoint.

A skeleton on `meta` costs no memory. Weights are then drawn in float32 on the CPU, one decoder block at a time, and
cast at once: float32 and bfloat16 runs start from the same numbers on every device, and the float32 copy of the whole
model never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from galore.trainer.checkpoint.tensors import refuse_unlike, some, tensor_names
from galore.trainer.common.errors import UserError
from galore.trainer.common.library import WHERE

# transformers skips the initialization of tensors that carry this flag
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
    empty, idle = _allocate_buffers(model), list[nn.Parameter]()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the generators of the GPUs
        for unit in _units(model, model):
            for module, _ in unit:
                _allocate(module, shared)
            for module, owner in unit:
                owner._init_weights(module)
            for module, _ in unit:
                idle += (each for each in module.parameters(recurse=False) if _is_idle(each))
                _settle(module, dtype, device, drawn)
    empty |= {name: each for name, each in model.named_parameters() if any(each is one for one in idle)}
    _refuse_unfilled(model, empty)
    _move_buffers(model, device)
    for parameter in model.parameters():
        delattr(parameter, _DRAWN)


def adopt_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, device: str) -> None:
    """Give a meta `model` the `tensors` of a checkpoint, {name: tensor}, without a copy where the device agrees.

    A tied weight may be stored under any one of its names. Buffers that no checkpoint holds are computed anew.

    Raises:
        UserError: naming the tensors that are missing, left over, of another shape, or two for one parameter; or a
            buffer that neither the checkpoint nor the model's initialization gives a value.
    """
    refuse_unlike(model, tensors)
    _compute_buffers(model, tensors, device)
    for names in tensor_names(model):
        stored = next((tensors[name] for name in names if name in tensors), None)
        if stored is None:
            continue
        own = _named(model, names[0])
        value = stored.to(device)
        if isinstance(own, nn.Parameter):
            value = nn.Parameter(value, requires_grad=own.requires_grad)
        for name in names:
            _set(model, name, value)


_Unit = list[tuple[nn.Module, PreTrainedModel]]


def _units(module: nn.Module, owner: PreTrainedModel) -> Iterator[_Unit]:
    """Groups of modules that are initialized together, children first.

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
    """Replace the module's own meta parameters by empty ones on the CPU; a tied weight becomes one tensor again."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            fresh = nn.Parameter(torch.empty_like(parameter, device="cpu", dtype=torch.float32))
            module._parameters[name] = shared.setdefault(id(parameter), fresh)


def _allocate_buffers(model: nn.Module, given: Collection[str] = ()) -> dict[str, Tensor]:
    """Empty tensors on the CPU, {name: tensor}, in place of the meta buffers of `model` that are not `given`."""
    empty: dict[str, Tensor] = {}
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in given:
            empty[name] = torch.empty_like(buffer, device="cpu")
            _set(model, name, empty[name])
    return empty


def _refuse_unfilled(model: nn.Module, empty: Mapping[str, Tensor]) -> None:
    """Raise UserError for a tensor that is still as it was allocated: nothing was ever written into it."""
    own = dict(model.named_buffers()) | dict(model.named_parameters())
    if idle := [name for name, each in empty.items() if own[name] is each and _is_idle(each)]:
        raise UserError(
            f"nothing gives {some(idle)} a value: no stored tensor, nor what transformers initializes of {type(model).__name__}",
            where=WHERE,
            fix="start from stored weights, or choose another architecture",
        )


def _is_idle(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and not tensor._version


def _move_buffers(model: nn.Module, device: str) -> None:
    for name, buffer in model.named_buffers():
        if not buffer.is_meta:
            _set(model, name, buffer.to(device))


def _settle(module: nn.Module, dtype: torch.dtype, device: str, drawn: Callable[[nn.Module], None]) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    drawn(module)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
        setattr(parameter, _DRAWN, True)


def _named(model: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return module._parameters.get(leaf, module._buffers.get(leaf))


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor


def _compute_buffers(model: nn.Module, given: Collection[str], device: str) -> None:
    """Compute the buffers that are on meta and not `given`, through the model's own initialization.

    All of it runs, since a module may fill the buffers of those below it, while the parameters are still on meta, where
    it can draw over nothing.
    """
    empty = _allocate_buffers(model, given)
    if not empty:
        return
    for parameter in model.parameters():
        setattr(parameter, _DRAWN, True)
    with torch.no_grad():
        for root in _outermost(model):
            for module, owner in _post_order(root, root):
                owner._init_weights(module)
    _refuse_unfilled(model, empty)
    _move_buffers(model, device)


def _outermost(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The transformers models in `module` that lie in no other."""
    if isinstance(module, PreTrainedModel):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)
