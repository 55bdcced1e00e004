"""The settings of a param group: none that cannot be meant, and those of the official package's groups as ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import torch.distributed as dist
from torch import Tensor

from galore.kernels.reference.operations import Side
from galore.kernels.rules.adam import Convention
from galore.kernels.rules.transport import Transport
from galore.trainer.optim.parts.inner import InnerRule
from galore.trainer.optim.parts.residual import Residual
from galore.trainer.optim.parts.storage import ProjectorDtype
from galore.trainer.optim.parts.subspace import ProjType
from galore.trainer.optim.weight import as_matrix

OFFICIAL = ("std", "reverse_std", "left", "right", "full")  # proj_type of galore_torch, which is always by SVD
CHOICES: dict[str, tuple[str | None, ...]] = {
    "proj_type": get_args(ProjType),
    "side": get_args(Side),
    "inner": get_args(InnerRule),
    "transport": (None, *get_args(Transport)),
    "residual": get_args(Residual),
    "projector_dtype": (None, *get_args(ProjectorDtype)),
    "convention": get_args(Convention),
}


def _number(holds: Callable[[float], bool], optional: bool = False) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if value is None:
            return optional
        try:
            number = float(value)
        except (TypeError, ValueError):
            return False
        return math.isfinite(number) and holds(number)

    return check


RATE = _number(lambda x: x >= 0)
NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (RATE, "a finite number, not negative"),
    "eps": (_number(lambda x: x > 0), "a finite number above 0"),
    "weight_decay": (RATE, "a finite number, not negative"),
    "scale": (_number(lambda x: x >= 0, optional=True), "a finite number, not negative, or None"),
    "rank": (
        _number(lambda x: x > 0 and (x < 1 or x == int(x)), optional=True),
        "a whole number from 1, a share below 1 of the smaller side, or None",
    ),
    "update_proj_gap": (_number(lambda x: x >= 1 and x == int(x)), "a whole number of steps from 1"),
    "refresh_overlap": (_number(lambda x: x >= 0, optional=True), "a finite number, not negative, or None"),
    "momentum": (_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
}


def settle_group(group: dict[str, Any], number: int) -> None:
    """Turn the official package's `proj_type` into ours, in place, and check every setting.

    Raises:
        ValueError: a setting cannot be meant; names it, its value and the group.
    """
    name = f"group {number}" + (f" ({group['param_names'][0]} …)" if group["params"] else "")
    if group["proj_type"] in OFFICIAL:
        _settle_official(group, name)
    for key, (holds, wanted) in NUMBERS.items():
        if not holds(group[key]):
            raise ValueError(f"{key}={group[key]!r} in {name}: it has to be {wanted}")
    betas = group["betas"]
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2 and all(map(NUMBERS["momentum"][0], betas))):
        raise ValueError(f"betas={betas!r} in {name}: they have to be two numbers from 0 to below 1")
    for key, choices in CHOICES.items():
        if group[key] not in choices:
            raise ValueError(f"{key}={group[key]!r} in {name}: there are {', '.join(map(str, choices))}")


def check_rates(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError where a schedule has made the learning rate of a group something that no step can take."""
    for number, group in enumerate(groups):
        if not RATE(group["lr"]):
            wanted = NUMBERS["lr"][1]
            raise ValueError(f"lr={group['lr']!r} in group {number}: it has to be {wanted}; nothing was changed")


def refuse_several_processes() -> None:
    """Raise RuntimeError in a group of processes: each would find subspaces and take steps of its own, and drift apart."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(
            f"torch.distributed runs {dist.get_world_size()} processes, and GaLoreAdamW trains in one: DistributedDataParallel "
            "would average no gradient, since each is projected and freed in the backward, and the ranks would drift apart"
        )


def _settle_official(group: dict[str, Any], name: str) -> None:
    """`std` projects the smaller side and `reverse_std` the larger one, square matrices from the right and from the left."""
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
