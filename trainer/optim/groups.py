"""Parameter groups, strictly: every pattern matches, every trainable parameter is in exactly one group."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

GROUP_OPTIONS = {
    "lr",
    "betas",
    "eps",
    "scale",
    "update_proj_gap",
    "proj_type",
    "convention",
    "transport",
    "residual",
    "projector_dtype",
}
NamedParameter = tuple[str, nn.Parameter]


def target_linears(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """Linear modules whose dotted path contains one of `patterns` as consecutive components.

    Raises:
        ValueError: a pattern matches no linear module; names the nearest path components.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in linears):
            parts = sorted({part for name in linears for part in name.split(".")[-2:] if not part.isdigit()})
            near = difflib.get_close_matches(pattern, parts, n=1, cutoff=0.5)
            nearest = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{pattern!r} matches no linear layer; {nearest}the model has: {', '.join(parts)}")
    return {name: module for name, module in linears.items() if any(_matches(name, pattern) for pattern in patterns)}


def _matches(name: str, pattern: str) -> bool:
    return f".{pattern}." in f".{name}."


def adamw_groups(named: Iterable[NamedParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with `weight_decay`; vectors (norms, biases) without."""
    matrices: list[NamedParameter] = []
    vectors: list[NamedParameter] = []
    for name, parameter in named:
        (matrices if parameter.ndim >= 2 else vectors).append((name, parameter))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def galore_groups(
    model: nn.Module,
    rank: int | None,
    *,
    targets: Sequence[str] = ("self_attn", "mlp"),
    weight_decay: float = 0.0,
    **options: Any,
) -> list[dict[str, Any]]:
    """Groups for `GaLoreAdamW`: the weights of the target linears, and the full-rank rest.

    Args:
        rank: subspace dimension r of the target weights; None keeps them full-rank, with the same `options`.
        targets: parts of module paths; see `target_linears`.
        options: further settings of the target group, such as `scale` or `update_proj_gap`.

    Raises:
        ValueError: a pattern matches nothing, or no target weight is trainable. TypeError: an option is unknown.
    """
    unknown = set(options) - GROUP_OPTIONS
    if unknown:
        raise TypeError(f"unknown group options {sorted(unknown)}; a group takes {sorted(GROUP_OPTIONS)}")
    chosen = {id(module.weight) for module in target_linears(model, targets).values()}
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    projected = [(name, parameter) for name, parameter in trainable if id(parameter) in chosen]
    rest = [(name, parameter) for name, parameter in trainable if id(parameter) not in chosen]
    if not projected:
        raise ValueError(f"no weight under {', '.join(targets)} is trainable")
    target: dict[str, Any] = {"params": projected, "weight_decay": weight_decay, **options}
    if rank is not None:
        target["rank"] = rank
    return [target, *adamw_groups(rest, weight_decay)]


def check_complete(model: nn.Module, groups: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError unless every trainable parameter of `model` is in exactly one group."""
    grouped = [id(parameter) for group in groups for _, parameter in group["params"]]
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for key, name in trainable.items() if key not in grouped]
    twice = [name for key, name in trainable.items() if grouped.count(key) > 1]
    problems = [f"no group updates {', '.join(missing)}"] if missing else []
    problems += [f"in two groups: {', '.join(twice)}"] if twice else []
    if problems:
        raise ValueError("; ".join(problems))
