"""From torch param groups to slots: names, scales, ranks and refresh turns settled and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.family import refresh_of
from galore.trainer.optim.groups import rank_for
from galore.trainer.optim.member import Member
from galore.trainer.optim.parts.refresh import schedules
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.residual import ResidualSlot
from galore.trainer.optim.settings import OptimizerSettings, settle
from galore.trainer.optim.slot import FullSlot


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
    groups: list[dict[str, Any]], state: Mapping[Tensor, dict[str, Tensor]], settings: OptimizerSettings, clock: Any
) -> dict[nn.Parameter, FullSlot]:
    """One slot per parameter of the (torch) param `groups`, in order.

    Raises:
        ValueError: a setting cannot be meant, a projected parameter is no matrix, or a parameter is not contiguous.
    """
    members = [
        (name, p, group, own)
        for group, own in zip(groups, settle(groups, settings), strict=True)
        for name, p in zip(group["param_names"], group["params"], strict=True)
    ]
    projected = [group for _, _, group, _ in members if group["rank"] is not None]
    turns = iter(schedules([group["update_proj_gap"] for group in projected], settings.stagger))
    compensated = settings.weight_rounding == "compensated"
    slots: dict[nn.Parameter, FullSlot] = {}
    for index, (name, parameter, group, own) in enumerate(members):
        _check(name, parameter, group)
        member = Member(name, index, parameter, group, state[parameter])
        common = (member, settings.state_dtype, settings.accumulator_dtype, compensated)
        kind = ProjectedSlot if own.residual == "none" else ResidualSlot
        slots[parameter] = (
            FullSlot(*common)
            if group["rank"] is None
            else kind(
                *common,
                rank=rank_for(group["rank"], member.matrix.shape),
                mode=refresh_of(own),
                schedule=next(turns),
                seed=settings.seed,
                clock=clock,
                accumulation=settings.accumulation,
            )
        )
    return slots


def _check(name: str, parameter: Tensor, group: dict[str, Any]) -> None:
    if not parameter.is_contiguous():
        raise ValueError(f"{name} is not contiguous; call .contiguous() on it first")
    if group["rank"] is not None and parameter.ndim < 2:
        raise ValueError(f"{name} of shape {tuple(parameter.shape)} cannot be projected to rank {group['rank']}")
    if parameter.dtype == torch.int8 and group["rank"] is None:
        raise ValueError(f"{name} is kept in int8, and can only be trained projected: give its group a rank")
    if group["inner"] in ("muon", "sumo") and parameter.ndim < 2:
        raise ValueError(f"{name} of shape {tuple(parameter.shape)} is no matrix, which inner={group['inner']!r} needs")
