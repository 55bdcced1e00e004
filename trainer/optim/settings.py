"""The settings of an optimizer and of its groups: checked, and those of the official package's groups as ours."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from galore.kernels.contradiction import contradiction, lacks_momentum
from galore.kernels.family import (
    LARGEST,
    MOST_STEPS,
    SMALLEST,
    GroupSettings,
    Options,
    Side,
    option,
    residual_scale_of,
    scale_of,
    transport_of,
)
from galore.trainer.optim.parts.weight import as_matrix
from galore.trainer.optim.ranks import Ranks

OFFICIAL = ("std", "reverse_std", "left", "right", "full")  # proj_type of galore_torch, which is always by SVD


@dataclass(frozen=True)
class OptimizerSettings(Options):
    """What `GaLoreAdamW` takes beside the parameters; a group may have its own of those in `PER_GROUP`."""

    lr: float = option(1e-2, "Learning rate", ge=0)
    betas: tuple[float, float] = option((0.9, 0.999), "Decay of the first and of the second moment", ge=0, lt=1)
    eps: float = option(1e-8, "Added to the square root of the second moment", gt=0, ge=SMALLEST, le=LARGEST)
    weight_decay: float = option(0.0, "Decoupled weight decay", ge=0, le=LARGEST)
    _: KW_ONLY
    accumulator_dtype: torch.dtype = option(torch.float32, "Storage of gradient sums over micro-batches")
    max_grad_norm: float | None = option(
        None,
        "Global norm that step() clips to; torch's clip_grad_norm_(parameters) finds no gradients to clip: give this, or "
        "call that of the optimizer before step()",
        gt=0,
    )
    accumulation: int | None = option(
        None,
        "Micro-batches per step where known; lets summed free the whole gradient inside the last hook",
        ge=1,
        le=MOST_STEPS,
    )
    seed: int = option(
        0, "Of random subspaces and rounding; everything random is a pure function of (seed, step)", ge=0, le=2**63 - 1
    )
    ranks: Ranks | None = option(
        None,
        "Processes that train together, each on its share of the micro-batches: sums are taken over all of them before the norm",
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))


FIELDS = {each.name: each for each in dataclasses.fields(OptimizerSettings)}
PER_GROUP = ("lr", "betas", "eps", "weight_decay", *(each.name for each in dataclasses.fields(GroupSettings)))
NUMBERS = ("lr", "betas", "eps", "weight_decay", "scale", "residual_scale", "momentum")  # a loaded state brings them
# it stays as an optimizer was made
COMPOSITION = ("rank", *(name for name in PER_GROUP if name not in NUMBERS))
OTHERS = ("params", "param_names", "rank", "initial_lr", "name")  # initial_lr is a schedule's, name whose group it is
RANK = "a whole number from 1, a share below 1 of the smaller side, or None"


def written(name: str, value: object) -> str:
    """An option and its value as Python has them."""
    return f"{name}={value!r}"


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own, which states can be saved with and seeds are added to; all else as it is."""
    if isinstance(value, (bool, int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def refuse_unknown(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError for a key of a param group that would have no effect; names the nearest that has one."""
    known = (*OTHERS, *PER_GROUP)
    for number, group in enumerate(groups):
        for name in group.keys() - known - {"clock"}:
            if name in FIELDS:
                raise ValueError(f"{name!r} in group {number} is of all groups: give it to GaLoreAdamW as a keyword")
            near = difflib.get_close_matches(str(name), known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"a group takes {', '.join(sorted(known))}"
            raise ValueError(f"{name!r} in group {number} is no option of a param group: {fix}")


def settle(groups: list[dict[str, Any]], settings: OptimizerSettings) -> list[OptimizerSettings]:
    """The settings of each group. In the groups the official package's `proj_type` becomes ours, and defaults that
    depend on other settings are filled in.

    Raises:
        ValueError: a setting cannot be meant or contradicts another; names it, its value and the group.
        RuntimeError: there are several processes, and no `ranks`.
    """
    refuse_several_processes(settings.ranks)
    _check(vars(settings), [name for name in FIELDS if name not in PER_GROUP], "GaLoreAdamW")
    if settings.update == "immediate" and settings.ranks is not None:
        raise ValueError(
            "update='immediate' applies each gradient in the backward, before ranks could sum it: not with ranks"
        )
    if settings.gradient_sums == "host" and settings.ranks is not None:
        raise ValueError(f"{written('gradient_sums', 'host')}: ranks sum on the device: not with ranks")
    if settings.update == "immediate" and (settings.accumulation or 1) > 1:
        raise ValueError(f"{written('accumulation', settings.accumulation)}: not with update='immediate'")
    settled = [_settle_group(group, number, settings) for number, group in enumerate(groups)]
    if said := lacks_momentum(settings.state_dtype, [group["inner"] for group in groups], written):
        raise ValueError(f"all groups ({len(groups)}): {said}")
    return settled


def _settle_group(group: dict[str, Any], number: int, settings: OptimizerSettings) -> OptimizerSettings:
    name = f"group {number}" + (f" ({group['param_names'][0]} …)" if group["params"] else "")
    group.update({key: plain(group[key]) for key in (*PER_GROUP, "rank")})
    if group["proj_type"] in OFFICIAL:
        _settle_official(group, name)
    _check(group, PER_GROUP, name)
    if not _is_rank(group["rank"]):
        raise ValueError(f"{written('rank', group['rank'])} in {name}: it has to be {RANK}")
    own, projected = _of_group(group, settings), group["rank"] is not None
    if said := contradiction(own, projected, written):
        raise ValueError(f"{name}: {said}")
    group["transport"], group["scale"] = transport_of(own), scale_of(own, projected)
    group["residual_scale"] = residual_scale_of(own)
    return _of_group(group, settings)


def _of_group(group: dict[str, Any], settings: OptimizerSettings) -> OptimizerSettings:
    return dataclasses.replace(settings, **{name: group[name] for name in PER_GROUP})


def check_saved(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError where the options of saved groups cannot be meant."""
    for number, group in enumerate(groups):
        _check(group, [name for name in NUMBERS if name in group], f"saved group {number}")


def check_rates(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError where a schedule has made the learning rate of a group something that no step can take."""
    for number, group in enumerate(groups):
        if wrong := _wrong("lr", group["lr"]):
            raise ValueError(f"{written('lr', group['lr'])} in group {number}: {wrong}; nothing was changed")


def _check(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise ValueError for the first value that its declaration does not allow."""
    for name in names:
        if wrong := _wrong(name, values[name]):
            raise ValueError(f"{written(name, values[name])} in {where}: {wrong}")


def _wrong(name: str, value: Any) -> str | None:
    """What the value of an option has to be instead; None where it may be as it is."""
    hint, limits = _hints()[name], FIELDS[name].metadata
    optional = NoneType in get_args(hint)
    kind = next(each for each in get_args(hint) if each is not NoneType) if optional else hint
    if optional and value is None:
        return None
    if get_origin(kind) is Literal:
        choices = (*((None,) if optional else ()), *get_args(kind))
        return None if value in choices else f"there are {', '.join(map(str, choices))}"
    if kind is bool:
        return None if value in (True, False) else "it has to be True or False"
    if kind is torch.dtype:
        sums = isinstance(value, torch.dtype) and value.is_floating_point and value.itemsize > 1
        return None if sums else "it has to be a floating-point dtype of 16 bits or more, such as torch.float32"
    if kind is Ranks:
        return (
            None
            if hasattr(value, "start_sum")
            else "it has to be a group of processes, see galore.trainer.optim.ranks, or None"
        )
    ends = _ends(limits) + (", or None" if optional else "")
    if get_origin(kind) is tuple:
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_within(each, limits) for each in value)
        return None if pair else f"they have to be two numbers {ends}"
    fits = _is_within(value, limits) and (kind is float or float(value).is_integer())
    return None if fits else f"it has to be {'a whole' if kind is int else 'a finite'} number {ends}"


ENDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "gt": (lambda x, end: x > end, "above"),
    "ge": (lambda x, end: x >= end, "from"),
    "lt": (lambda x, end: x < end, "below"),
    "le": (lambda x, end: x <= end, "up to"),
}


def _is_within(value: Any, limits: Mapping[str, Any]) -> bool:
    if isinstance(value, (str, bytes, bool)):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return math.isfinite(number) and all(ENDS[end][0](number, limits[end]) for end in limits.keys() & ENDS)


def _ends(limits: Mapping[str, Any]) -> str:
    told = {end: limits[end] for end in ENDS if end in limits and not (end == "gt" and "ge" in limits)}
    return " ".join(f"{ENDS[end][1]} {limit:{',' if isinstance(limit, int) else 'g'}}" for end, limit in told.items())


def _is_rank(value: Any) -> bool:
    return value is None or (_is_within(value, {"gt": 0}) and (value < 1 or float(value).is_integer()))


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(OptimizerSettings)


def refuse_several_processes(ranks: Ranks | None) -> None:
    """Raise RuntimeError in a group of processes without `ranks`: each would find its own subspaces and drift apart."""
    if ranks is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            f"torch.distributed runs {dist.get_world_size()} processes, and GaLoreAdamW trains in one: DistributedDataParallel "
            "would average no gradient, since each is projected and freed in the backward, and the ranks would drift apart"
        )


def refuse_step(optimizer: Optimizer, ranks: Ranks | None, made: Composition) -> None:
    """Raise RuntimeError or ValueError where a step would do something else than is asked; nothing was changed."""
    refuse_several_processes(ranks)
    _refuse_scaler(optimizer)
    check_rates(optimizer.param_groups)
    if (now := composition(optimizer.param_groups)) != made:
        _refuse_composition(now, made)


Composition = list[list[Any]]


def composition(groups: Iterable[Mapping[str, Any]]) -> Composition:
    """What of each group counts when an optimizer is made, and not afterwards."""
    return [[group.get(name) for name in COMPOSITION] for group in groups]


def _refuse_composition(now: Composition, made: Composition) -> None:
    for number, pair in enumerate(zip(now, made, strict=True)):
        for name, new, old in zip(COMPOSITION, *pair, strict=True):
            if new != old:
                raise ValueError(
                    f"{written(name, new)} in group {number} has no effect, it was made with {old!r}: set that again, or make a "
                    "new GaLoreAdamW"
                )


def _refuse_scaler(optimizer: Optimizer) -> None:
    """A GradScaler leaves its findings in the optimizer; they are forgotten, so that a step without one goes on."""
    if vars(optimizer).pop("found_inf", None) is not None:
        vars(optimizer).pop("grad_scale", None)
        raise RuntimeError(
            "a GradScaler finds no gradients to unscale here, and none are needed: use bfloat16 autocast without a scaler, "
            "or GradScaler(enabled=False)"
        )


def _settle_official(group: dict[str, Any], name: str) -> None:
    """Settle a `proj_type`: `std` projects the smaller side, `reverse_std` the larger; squares from right and left."""
    kind = group["proj_type"]
    if kind == "full":
        raise ValueError(f"proj_type='full' in {name}: projecting both sides is not offered; take left, right or std")
    if group["side"] != "auto":
        raise ValueError(f"proj_type={kind!r} in {name} names a side already, beside side={group['side']!r}")
    side = {"std": "auto", "left": "left", "right": "right"}.get(kind) or _larger_side(group["params"], name)
    group["proj_type"], group["side"] = "svd", side


def _larger_side(params: list[Tensor], name: str) -> Side:
    tall = {matrix.shape[0] >= matrix.shape[1] for matrix in map(as_matrix, params)}
    if len(tall) > 1:
        raise ValueError(f"proj_type='reverse_std' in {name}: put wide and tall matrices into groups of their own")
    return "left" if tall == {True} else "right"
