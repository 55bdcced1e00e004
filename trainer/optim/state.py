"""What an optimizer keeps, as named tensors: to save, to restore, to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from galore.trainer.optim.settings import COMPOSITION, check_saved
from galore.trainer.optim.slot import ON_HOST, FullSlot


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
            ValueError: a tensor belongs to no parameter of this optimizer, is missing, or is of another shape or dtype;
                nothing was changed.
        """
        by_name = {slot.name: slot for slot in self.slots.values()}
        states: dict[str, dict[str, Tensor]] = {name: {} for name in by_name}
        for key, value in tensors.items():
            name, _, field = key.rpartition(".")
            if name not in by_name:
                raise ValueError(f"the optimizer has no parameter for the saved tensor {key!r}")
            states[name][field] = value
        for name, state in states.items():
            _check_state(by_name[name], state)
        for name, state in states.items():
            slot = by_name[name]
            slot.state.clear()
            for field, value in state.items():
                slot.state[field] = value.to("cpu" if field in ON_HOST else slot.parameter.device, copy=True)
        for group in self.param_groups:
            group["clock"] = clock

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does, except that moments and projectors keep their own dtype, not the parameter's.

        Numbers of the saved groups count from now on; what an update is composed of stays as this optimizer was made.

        Raises:
            ValueError: it is no such optimizer's, or a tensor is missing or of another shape or dtype; nothing was
                changed.
        """
        if missing := {"state", "param_groups"} - state_dict.keys():
            raise ValueError(f"this is no state dict of an optimizer: it has no {' and no '.join(sorted(missing))}")
        if any("clock" not in group for group in state_dict["param_groups"]):
            raise ValueError("this state dict is not of a GaLoreAdamW: its groups have no clock")
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, parameter in zip(ids, parameters, strict=False):  # torch refuses another number of them
            _check_state(self.slots[parameter], state_dict["state"].get(index, {}))
        check_saved(state_dict["param_groups"])
        here = self.param_groups
        super().load_state_dict(state_dict)
        # an option of the composition, or one that is younger than the state, stays as it is here
        for group, ours in zip(self.param_groups, here, strict=True):
            group.update({name: value for name, value in ours.items() if name in COMPOSITION or name not in group})
        for index, parameter in zip(ids, parameters, strict=True):
            saved = state_dict["state"].get(index, {})
            state = {k: v.detach().clone().to("cpu" if k in ON_HOST else parameter.device) for k, v in saved.items()}
            self.state[parameter] = state
            self.slots[parameter].weight.state = state
        for group in self.param_groups:
            for parameter in group["params"]:
                self.slots[parameter].weight.group = group

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


def _check_state(slot: FullSlot, saved: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `saved` is what the slot keeps, or nothing, as before the first gradient."""
    wanted = slot.planned_state() if saved else {}
    for name in sorted(wanted.keys() | saved.keys() - {"refresh"}):
        if name not in saved:
            raise ValueError(f"{slot.name}.{name} is missing among the saved tensors")
        if name not in wanted:
            raise ValueError(f"{slot.name}.{name} is saved, and nothing like it is kept here")
        here, there = wanted[name], saved[name]
        if here.shape != there.shape or here.dtype != there.dtype:
            described = [f"{x.dtype} {tuple(x.shape)}" for x in (there, here)]
            raise ValueError(f"{slot.name}.{name}: {described[0]} saved, {described[1]} here")
