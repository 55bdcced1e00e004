"""Everything a run needs to go on exactly where it was: captured into named tensors and JSON, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from galore.trainer.checkpoint.checkpoint import Checkpoint
from galore.trainer.checkpoint.parts.parted import own_states, put_weight, whole_states, whole_weight
from galore.trainer.checkpoint.tensorfile import Stored, tensor_bytes
from galore.trainer.checkpoint.tensors import refuse_unlike
from galore.trainer.host.blocks import at_rest, written_at_rest
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optim.parts.shards import Sharing

Groups = dict[str, dict[str, Stored]]


def model_tensors(model: nn.Module, ranks: Sharing | None = None) -> dict[str, Stored]:
    """Weights and persistent buffers by name; a tensor with two names (tied weights) is stored under the first.

    Of a model that lies in parts on several `ranks` all of them, gathered when they are written.
    """
    seen: set[int] = set()
    held = at_rest(model)
    tensors: dict[str, Stored] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = whole_weight(held(tensor), ranks)
    return tensors


def planned_bytes(model: nn.Module, optimizer: GaLoreAdamW) -> int:
    """What the tensors of `capture` will come to once every state is there, but for some bytes per parameter."""
    size = optimizer.ranks.size if optimizer.sharded and optimizer.ranks is not None else 1
    planned = [slot.planned_bytes() for slot in optimizer.slots.values()]
    return tensor_bytes(model_tensors(model)) + sum(size * state + projector for state, projector in planned)


def random_state() -> dict[str, Tensor]:
    """The states of torch's generators, of which dropout draws."""
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return rng


def capture(
    model: nn.Module, optimizer: GaLoreAdamW, rng: dict[str, Tensor], ranks: Sharing | None = None
) -> tuple[Groups, dict[str, Any]]:
    """Tensor groups `model`, `optimizer`, `rng`, and the JSON that goes with them. No tensor is copied.

    `rng` is what `random_state` gave after the last whole step: the one that broke off may have drawn more.
    """
    groups: Groups = {"model": model_tensors(model, ranks), "optimizer": whole_states(optimizer), "rng": {**rng}}
    return groups, {"optimizer_clock": optimizer.clock}


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: GaLoreAdamW) -> None:
    """Put back what `capture` gave.

    Raises:
        UserError: the tensors do not fit this model. ValueError: they do not fit the optimizer.
    """
    load_model(model, checkpoint.load("model"))
    saved = own_states(optimizer, checkpoint.load("optimizer"))
    optimizer.load_state_tensors(saved, checkpoint.state["optimizer_clock"])
    rng = checkpoint.load("rng")
    torch.set_rng_state(rng["cpu"])
    for name, state in rng.items():
        index = int(name.removeprefix("cuda")) if name != "cpu" else -1
        if 0 <= index < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, index)


@torch.no_grad()
def load_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the model in place, so that tied weights stay tied.

    Raises:
        UserError: names or shapes differ. ValueError: types do.
    """
    refuse_unlike(model, tensors)
    own, held = model.state_dict(keep_vars=True), at_rest(model)
    for name in tensors:
        tensor = tensors[name]
        if own[name].dtype != tensor.dtype:
            raise ValueError(f"{name}: {tensor.dtype} saved, {own[name].dtype} here")
        put_weight(held(own[name]), tensor)
        del tensor  # before the next is read: one is whole at a time
    written_at_rest(model)
