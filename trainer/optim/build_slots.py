"""From torch param groups to slots: names, scales, ranks and refresh turns settled and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from galore.kernels.family import refresh_of
from galore.kernels.host import Host
from galore.trainer.optim.groups import rank_for
from galore.trainer.optim.parts.hostsum import sums_on
from galore.trainer.optim.parts.inner import INNER_RULES, Inner
from galore.trainer.optim.parts.modes import REFRESHES, Whole
from galore.trainer.optim.parts.outside import RESIDUALS
from galore.trainer.optim.parts.refresh import SampledColumns
from galore.trainer.optim.parts.storage import GradientSum
from galore.trainer.optim.parts.subspace.kinds import SUBSPACES
from galore.trainer.optim.parts.subspace.schedule import RefreshSchedule, schedules
from galore.trainer.optim.parts.transport import TRANSPORTS
from galore.trainer.optim.parts.weight import Weight
from galore.trainer.optim.projected import ProjectedSlot
from galore.trainer.optim.settings import OptimizerSettings, refuse_unknown, settle
from galore.trainer.optim.slot import FullSlot


def named_groups(params: Iterable[Any], full_rank: Mapping[str, Any] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Param groups whose parameters are (name, parameter) pairs; nameless ones are numbered.

    `full_rank` are settings of groups without a rank, beside others that have one, that do not say otherwise.
    """
    items = list(params)
    if not items:
        raise ValueError("there are no parameters to train: the list, or the generator, is empty")
    groups = [dict(item) for item in items] if isinstance(items[0], dict) else [{"params": items}]
    refuse_unknown(groups)
    count, projects = 0, any(group.get("rank") is not None for group in groups)
    for group in groups:
        if projects and group.get("rank") is None:
            group.update({name: value for name, value in full_rank.items() if name not in group})
        group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        for position, item in enumerate(group["params"]):
            if isinstance(item, Tensor):
                group["params"][position] = (f"parameter{count}", item)
            count += 1
    return groups


def build_slots(
    groups: list[dict[str, Any]],
    state: Mapping[Tensor, dict[str, Tensor]],
    settings: OptimizerSettings,
    host: Host | None = None,
) -> dict[nn.Parameter, FullSlot]:
    """One slot per parameter of the (torch) param `groups`, in order; sums of whole gradients wait on the `host`.

    Raises:
        ValueError: a setting cannot be meant, a projected parameter is no matrix, a parameter is not contiguous, two
            have one name, or they lie on several devices.
    """
    members = [
        (name, p, group, own)
        for group, own in zip(groups, settle(groups, settings), strict=True)
        for name, p in zip(group["param_names"], group["params"], strict=True)
    ]
    names = [name for name, *_ in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two parameters are named {twice!r}, and a saved state would keep one of them: give (name, parameter) pairs with "
            "names of their own"
        )
    device_of(groups)
    projected = [group for _, _, group, _ in members if group["rank"] is not None]
    turns = iter(schedules([group["update_proj_gap"] for group in projected], settings.stagger))
    slots: dict[nn.Parameter, FullSlot] = {}
    for index, (name, parameter, group, own) in enumerate(members):
        _check(name, parameter, group)
        weight = Weight(name, index, parameter, group, state[parameter], ranks=settings.ranks)  # type: ignore[arg-type]
        inner = INNER_RULES[group["inner"]](weight, own.state_dtype)
        slots[parameter] = (
            FullSlot(weight, inner, _whole_sum(parameter, own, host), own.weight_rounding == "compensated")
            if group["rank"] is None
            else _projected(weight, inner, own, next(turns), host)
        )
    return slots


def device_of(groups: Iterable[Mapping[str, Any]]) -> torch.device:
    """Where the parameters that are trained lie, codes in int8 among them; the first of all where none is.

    Raises:
        ValueError: they lie on several devices; names one on each.
    """
    members = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
    trained = [pair for pair in members if pair[1].requires_grad or pair[1].dtype == torch.int8] or members[:1]
    first = dict[torch.device, str]()
    for name, parameter in trained:
        first.setdefault(parameter.device, name)
    if len(first) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in first.items())
        raise ValueError(
            f"parameters lie on {len(first)} devices ({where}), and a GaLoreAdamW trains those of one: load the model onto "
            'one device (no device_map="auto"), or freeze what lies on the others'
        )
    return next(iter(first), torch.device("cpu"))


def _whole_sum(parameter: Tensor, own: OptimizerSettings, host: Host | None) -> GradientSum:
    """What sums the gradients of a parameter that is not projected; those of vectors are not worth a copy."""
    return sums_on(host if parameter.ndim >= 2 else None, parameter.numel())(own.accumulator_dtype)


def _projected(
    weight: Weight,
    inner: Inner,
    own: OptimizerSettings,
    schedule: RefreshSchedule,
    host: Host | None,
) -> ProjectedSlot:
    """The slot of the parts that the weight's group names; a residual of the whole gradient brings its refresh."""
    group = weight.group
    rank = rank_for(group["rank"], weight.shape)
    subspace = SUBSPACES[group["proj_type"]](weight, rank, schedule, own.seed, weight.clock)
    if weight.shard is not None and weight.shard.dim != (0 if subspace.transposed else 1):
        raise ValueError(f"{weight.name} is sharded along the side that is projected; shard the other one")
    residual = RESIDUALS[group["residual"]](subspace, inner)
    whole = sums_on(host if residual.whole else None, weight.parameter.numel())
    sampled = SampledColumns(subspace, own.accumulator_dtype) if residual.samples else None
    refresh = Whole if residual.whole else REFRESHES[refresh_of(own)]
    return ProjectedSlot(
        weight,
        inner,
        own.weight_rounding == "compensated",
        subspace=subspace,
        refresh=refresh(subspace, own.accumulator_dtype, own.accumulation, own.ranks, whole, sampled),
        transport=TRANSPORTS[group["transport"]],
        residual=residual,
    )


def refuse_alone(projected: Iterable[ProjectedSlot]) -> None:
    """Raise RuntimeError for codes in int8 whose layer has not been told of the optimizer: it gives no gradients."""
    for slot in projected:
        if slot.parameter.dtype == torch.int8 and slot.weight.scales is None:
            raise RuntimeError(f"{slot.name} is kept in int8: call hand_over_int8(model, optimizer) before training")


TRAINED = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8)  # int8 with scales beside it


def _check(name: str, parameter: Tensor, group: dict[str, Any]) -> None:
    if parameter.dtype not in TRAINED:
        fix = "train its torch.view_as_real" if parameter.is_complex() else "convert it, or leave it out of the groups"
        raise ValueError(
            f"{name} is {parameter.dtype}, and weights are trained in float32, float64, bfloat16, float16 and int8: {fix}"
        )
    if not parameter.is_contiguous():
        raise ValueError(
            f"{name} is not contiguous; keep weights contiguous (no model.to(memory_format=channels_last)) and give inputs as "
            "x.contiguous(memory_format=torch.channels_last)"
        )
    if group["rank"] is not None and (parameter.ndim < 2 or parameter.numel() == 0):
        raise ValueError(f"{name} of shape {tuple(parameter.shape)} cannot be projected to rank {group['rank']}")
    if parameter.dtype == torch.int8 and group["rank"] is None:
        raise ValueError(f"{name} is kept in int8, and can only be trained projected: give its group a rank")
    if INNER_RULES[group["inner"]].matrices_only and parameter.ndim < 2:
        raise ValueError(
            f"{name} of shape {tuple(parameter.shape)} is no matrix, which inner={group['inner']!r} needs: as a keyword of "
            "`galore_groups`, inner is for the target weights alone"
        )
