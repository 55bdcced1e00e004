"""From torch param groups to slots: names, scales, ranks and refresh turns settled and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from galore.trainer.optim.groups import rank_for
from galore.trainer.optim.parts.inner import INNER_RULES, Inner
from galore.trainer.optim.parts.refresh import REFRESHES, RefreshMode, Whole
from galore.trainer.optim.parts.residual import RESIDUALS
from galore.trainer.optim.parts.schedule import RefreshSchedule, schedules
from galore.trainer.optim.parts.storage import GradientSum, StateDtype
from galore.trainer.optim.parts.subspace import SUBSPACES, ProjType
from galore.trainer.optim.parts.transport import TRANSPORTS
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.settings import settle_group
from galore.trainer.optim.slot import FullSlot
from galore.trainer.optim.weight import Weight

UpdateMode = Literal["accumulate", "immediate"]
GALORE_SCALE = 0.25  # α of the paper


@dataclass(frozen=True)
class SlotOptions:
    """What all slots of one optimizer share."""

    refresh: RefreshMode | None
    stagger: bool
    update: UpdateMode
    state_dtype: StateDtype
    accumulator_dtype: torch.dtype
    compensated: bool
    accumulation: int | None
    seed: int

    def mode(self, proj_type: ProjType, whole: bool) -> RefreshMode:
        """The refresh mode in force for a kind of subspace; raises ValueError for a combination that cannot work.

        Args:
            whole: whether the whole summed gradient is held in any case.
        """
        if self.update == "immediate":
            if self.refresh not in (None, "first-micro-batch") or (self.accumulation or 1) > 1:
                raise ValueError("update='immediate' refreshes from the gradient in the hook and cannot accumulate")
            return "first-micro-batch"
        if proj_type == "random":
            return "first-micro-batch"  # never asked: the subspace comes from the seed
        sketchable = SUBSPACES[proj_type].sketchable
        mode = self.refresh or ("delayed" if sketchable and not whole else "summed")
        if REFRESHES[mode].sketches and not sketchable:
            raise ValueError(f"refresh={mode!r} works on a linear sketch, which proj_type={proj_type!r} has no use for")
        return mode


def named_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Param groups whose parameters are (name, parameter) pairs; nameless ones are numbered."""
    items = list(params)
    groups = [dict(item) for item in items] if items and isinstance(items[0], dict) else [{"params": items}]
    count = 0
    for group in groups:
        group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        for position, item in enumerate(group["params"]):
            if isinstance(item, Tensor):
                group["params"][position] = (f"parameter{count}", item)
            count += 1
    return groups


def build_slots(
    groups: list[dict[str, Any]], state: Mapping[Tensor, dict[str, Tensor]], options: SlotOptions, clock: Any
) -> dict[nn.Parameter, FullSlot]:
    """One slot per parameter of the (torch) param `groups`, in order.

    Raises:
        ValueError: a setting cannot be meant, a projected parameter is no matrix, or a parameter is not contiguous.
    """
    for number, group in enumerate(groups):
        settle_group(group, number)
    members = [
        (name, p, group) for group in groups for name, p in zip(group["param_names"], group["params"], strict=True)
    ]
    projected = [group for _, _, group in members if group["rank"] is not None]
    turns = iter(schedules([group["update_proj_gap"] for group in projected], options.stagger))
    slots: dict[nn.Parameter, FullSlot] = {}
    for index, (name, parameter, group) in enumerate(members):
        _check(name, parameter, group)
        if group["transport"] is None:
            found = group["proj_type"] != "random" and group["convention"] == "paper"
            group["transport"] = "rotate" if found else "keep"
        if group["scale"] is None:
            within = group["rank"] is not None and group["residual"] in ("none", "fira")
            group["scale"] = GALORE_SCALE if within else 1.0
        weight = Weight(name, index, parameter, group, state[parameter])
        inner = INNER_RULES[group["inner"]](weight, options.state_dtype)
        slots[parameter] = (
            FullSlot(weight, inner, GradientSum(options.accumulator_dtype), options.compensated)
            if group["rank"] is None
            else _projected(weight, inner, options, next(turns), clock)
        )
    return slots


def _projected(
    weight: Weight, inner: Inner, options: SlotOptions, schedule: RefreshSchedule, clock: Callable[[], int]
) -> ProjectedSlot:
    """The slot of the parts that the weight's group names; a residual that needs the whole gradient brings its refresh."""
    group = weight.group
    rank = rank_for(group["rank"], weight.matrix.shape)
    subspace = SUBSPACES[group["proj_type"]](weight, rank, schedule, options.seed, clock)
    residual = RESIDUALS[group["residual"]](subspace, inner)
    mode = options.mode(group["proj_type"], residual.whole)
    refresh = Whole if residual.whole else REFRESHES[mode]
    return ProjectedSlot(
        weight,
        inner,
        options.compensated,
        subspace=subspace,
        refresh=refresh(subspace, options.accumulator_dtype, options.accumulation),
        transport=TRANSPORTS[group["transport"]],
        residual=residual,
    )


def _check(name: str, parameter: Tensor, group: dict[str, Any]) -> None:
    if not parameter.is_contiguous():
        raise ValueError(f"{name} is not contiguous; call .contiguous() on it first")
    if group["rank"] is not None and parameter.ndim < 2:
        raise ValueError(f"{name} of shape {tuple(parameter.shape)} cannot be projected to rank {group['rank']}")
    if parameter.dtype == torch.int8 and group["rank"] is None:
        raise ValueError(f"{name} is kept in int8, and can only be trained projected: give its group a rank")
    if INNER_RULES[group["inner"]].matrices_only and parameter.ndim < 2:
        raise ValueError(f"{name} of shape {tuple(parameter.shape)} is no matrix, which inner={group['inner']!r} needs")
    if group["inner"] != "adamw" and group["convention"] == "reference":
        raise ValueError("convention='reference' is that of the official AdamW: inner='adamw'")
    if group["transport"] == "rotate" and group["proj_type"] == "random":
        raise ValueError(
            "transport='rotate' goes from basis to basis, and proj_type='random' has none that is orthonormal"
        )
