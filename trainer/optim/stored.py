"""What an optimizer keeps, as named tensors: to save, to restore, to count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from galore.trainer.optim.slot import FullSlot

ON_HOST = ("step", "refresh")  # counters, read at every step


class Stored(Optimizer):
    """An optimizer whose state belongs to `slots`, one per parameter."""

    slots: dict[nn.Parameter, FullSlot]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups are given at construction; later ones are refused, since their gradients would go nowhere.

        Raises:
            ValueError: the optimizer is made already.
        """
        if hasattr(self, "slots"):
            raise ValueError(
                "a group cannot be added later: make a new GaLoreAdamW of all groups, and release() this one"
            )
        super().add_param_group(param_group)

    def state_tensors(self) -> dict[str, Tensor]:
        """Every optimizer tensor under `<parameter name>.<tensor name>`; plain tensors, without copies."""
        return {f"{slot.name}.{key}": value for slot in self.slots.values() for key, value in slot.state.items()}

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, Tensor], clock: int) -> None:
        """Restore what `state_tensors` gave, at `clock` steps taken. Dtypes are kept.

        Raises:
            ValueError: a tensor belongs to no parameter of this optimizer.
        """
        by_name = {slot.name: slot for slot in self.slots.values()}
        for slot in by_name.values():
            slot.state.clear()
        for key, value in tensors.items():
            name, _, field = key.rpartition(".")
            if name not in by_name:
                raise ValueError(f"the optimizer has no parameter for the saved tensor {key!r}")
            device = torch.device("cpu") if field in ON_HOST else by_name[name].parameter.device
            by_name[name].state[field] = value.to(device, copy=True)
        for group in self.param_groups:
            group["clock"] = clock

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, except that moments and projectors keep their own dtype instead of the parameter's."""
        super().load_state_dict(state_dict)
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, parameter in zip(ids, parameters, strict=True):
            saved = state_dict["state"].get(index, {})
            state = {k: v.detach().clone().to("cpu" if k in ON_HOST else parameter.device) for k, v in saved.items()}
            self.state[parameter] = state
            self.slots[parameter].member.state = state
        for group in self.param_groups:
            for parameter in group["params"]:
                self.slots[parameter].member.group = group

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(category, tensor) for all that is held now: `gradients` of a parameter's own size, `optimizer_states`,
        `projectors`, and `accumulators`, which are projected sums and sketches."""
        for slot in self.slots.values():
            yield from slot.tensors()

    def memory_by_category(self) -> dict[str, int]:
        """Bytes held now; most of them just before `step()`."""
        held = dict.fromkeys(("gradients", "optimizer_states", "projectors", "accumulators"), 0)
        for category, tensor in self.tensors():
            held[category] += tensor.nbytes
        return held
