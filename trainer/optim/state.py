"""What an optimizer keeps, as named tensors: to save, to restore, to count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from galore.trainer.optim.parts.storage import row_major
from galore.trainer.optim.settings import COMPOSITION, NUMBERS, check_saved
from galore.trainer.optim.slot import ON_HOST, FullSlot

NUMBERED = re.compile(r"parameter\d+")  # what `named_groups` calls those without a name
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # around a module, torch's


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
        """Restore what `state_tensors` gave, at `clock` steps taken. Dtypes are kept; what is accumulated is forgotten.

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
                slot.state[field] = _own(field, value, slot.parameter)
        for group in self.param_groups:
            group["clock"] = clock
        self.zero_grad()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch does, except that moments and projectors keep their own dtype, not the parameter's.

        Numbers of the saved groups count from now on; what an update is composed of stays as this optimizer was made.
        Parameters are those of the same names, where both sides have names, and else those of the same places. What is
        accumulated is forgotten: its sums are in subspaces that the state replaces.

        Raises:
            ValueError: it is no such optimizer's, of other names, or a tensor is missing or of another shape or dtype;
                nothing was changed.
            Exception: what torch raises where a copy fails, as for want of memory; the state is then empty.
        """
        if missing := {"state", "param_groups"} - state_dict.keys():
            raise ValueError(f"this is no state dict of an optimizer: it has no {' and no '.join(sorted(missing))}")
        if any("clock" not in group for group in state_dict["param_groups"]):
            raise ValueError("this state dict is not of a GaLoreAdamW: its groups have no clock")
        here, read = self.param_groups, dict[nn.Parameter, Mapping[str, Tensor]]()

        def take(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            """Last of the hooks before: the groups in the order of those here, and what is saved of each parameter."""
            groups = in_order(given["param_groups"], here)
            ids = [index for group in groups for index in group["params"]]
            parameters = [p for group in here for p in group["params"]]
            # torch refuses another number of them
            # each in a dict of its own: those of a state that is loaded into itself are emptied below
            read.update((p, dict(given["state"].get(index, {}))) for index, p in zip(ids, parameters, strict=False))
            check_saved(groups)
            numbers = {p: _numbers(group) for group, ours in zip(groups, here, strict=False) for p in ours["params"]}
            for parameter, saved in read.items():
                _check_state(self.slots[parameter], saved, numbers.get(parameter, {}))
            # torch would cast a state of codes to the dtype of the weights, all of it at once
            return {**given, "state": {}, "param_groups": groups}

        def put(_: Optimizer) -> None:
            """First of the hooks after: the tensors as they were saved, one parameter after another."""
            # an option of the composition, or one that is younger than the state, stays as it is here
            for group, ours in zip(self.param_groups, here, strict=True):
                own = {name for name in ours if name in (*COMPOSITION, "param_names") or name not in group}
                group.update({name: ours[name] for name in own})
            for group in self.param_groups:
                for parameter in group["params"]:
                    slot = self.slots[parameter]
                    slot.weight.group, self.state[parameter] = group, slot.state
            try:
                for parameter, saved in read.items():
                    state = self.slots[parameter].state
                    state.clear()  # what was kept is free before the copies are made
                    state.update((name, _own(name, value, parameter)) for name, value in saved.items())
            except BaseException as error:
                for slot in self.slots.values():
                    slot.state.clear()
                error.add_note("nothing is left of the optimizer's state, that of before included: load it again")
                raise

        before = self.register_load_state_dict_pre_hook(take)
        after = self.register_load_state_dict_post_hook(put, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()
        self.zero_grad()

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


def _own(name: str, saved: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of a `saved` tensor where the state of `parameter` lies, and as it lies there."""
    return row_major(saved.detach().to("cpu" if name in ON_HOST else parameter.device, copy=True))


def _numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a saved group brings."""
    return {name: group[name] for name in NUMBERS if name in group}


def _check_state(
    slot: FullSlot, saved: Mapping[str, Tensor], numbers: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise ValueError unless `saved` is what the slot keeps under the `numbers` that come with it, or nothing, as
    before the first gradient."""
    wanted = _planned(slot, numbers) if saved else {}
    for name in sorted(wanted.keys() | saved.keys() - {"refresh"}):
        if name not in saved:
            raise ValueError(f"{slot.name}.{name} is missing among the saved tensors")
        if name not in wanted:
            raise ValueError(f"{slot.name}.{name} is saved, and nothing like it is kept here")
        here, there = wanted[name], saved[name]
        if not isinstance(there, Tensor):
            raise ValueError(f"{slot.name}.{name}: {there!r} is saved, and a tensor is kept here")
        if here.shape != there.shape or here.dtype != there.dtype:
            described = [f"{x.dtype} {tuple(x.shape)}" for x in (there, here)]
            raise ValueError(f"{slot.name}.{name}: {described[0]} saved, {described[1]} here")


def _planned(slot: FullSlot, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a slot whose group had other `numbers`, on `meta`."""
    group = slot.weight.group
    slot.weight.group = {**group, **numbers}
    try:
        return slot.planned_state()
    finally:
        slot.weight.group = group


def in_order(saved: list[dict[str, Any]], here: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `saved` groups, and the parameters of each, in the order of those `here`, by their names.

    They are as they were where a parameter of either side has no name.

    Raises:
        ValueError: a name is on one side only, or beside others.
    """
    theirs, ours = ([_names(group) for group in groups] for groups in (saved, here))
    if None in theirs or None in ours:
        return saved
    found, left = [], {number: names or [] for number, names in enumerate(theirs)}
    for names in ours:
        wanted = names or []
        at = next((number for number, their in left.items() if set(their) == set(wanted)), None)
        if at is None:
            raise ValueError(_unlike(list(left.values()), wanted))
        index = dict(zip(left.pop(at), saved[at]["params"], strict=True))
        found.append({**saved[at], "params": [index[name] for name in wanted]})
    if more := [name for names in left.values() for name in names]:
        raise ValueError(f"the saved state has a parameter {more[0]!r}, and the optimizer has none of that name")
    return [*found, *(saved[number] for number in left)]  # torch refuses another number of them


def _names(group: Mapping[str, Any]) -> list[str] | None:
    """Names of a group's parameters, without those of wrappers around modules; None where one has none of its own."""
    names = list(group.get("param_names", ()))
    if len(names) < len(group["params"]) or any(NUMBERED.fullmatch(name) for name in names):
        return None
    return [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names]


def _unlike(saved: list[list[str]], wanted: list[str]) -> str:
    """How `wanted`, the names of a group, differ from those of each saved one."""
    its = next((names for names in saved if set(names) & set(wanted)), [])
    first = next((name for name in (*wanted, *its) if (name in its) != (name in wanted)), None)
    return (
        f"the saved state has {'no' if first in wanted else 'a'} parameter {first!r} in the group of "
        f"{next(iter(wanted), None)!r}: give the optimizer the groups that the saved one had"
    )
