"""A model against stored tensors: the same names and shapes, one tensor for each parameter, a value for everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from galore.trainer.checkpoint.parts.files import Saved
from galore.trainer.common.errors import UserError

SHOWN = 5  # names in a message


def tensor_names(model: nn.Module) -> list[list[str]]:
    """The names of every parameter and persistent buffer, in the model's order; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def refuse_unlike(model: nn.Module, stored: Mapping[str, Tensor], *, where: str = "") -> None:
    """Raise UserError unless `stored` is all of the parameters and persistent buffers of `model`, and nothing else.

    A tied weight may be stored under one of its names, or under several with equal values.
    """
    groups = tensor_names(model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict(keep_vars=True).items()}
    # those of a file are known without reading it
    sizes = stored.sizes if isinstance(stored, Saved) else {name: each.shape for name, each in stored.items()}
    faults = [f"{names[0]} is missing" for names in groups if not any(name in stored for name in names)]
    faults += [f"{name} is not in the model" for name in stored if name not in shapes]
    faults += [
        f"{name} is {tuple(sizes[name])}, the model has {tuple(shape)}"
        for name, shape in sorted(shapes.items())
        if name in sizes and sizes[name] != shape
    ]
    faults += [f"{first} and {other} are one parameter, and differ" for first, other in _at_odds(groups, stored)]
    if faults:
        raise UserError(f"the stored weights do not fit the model: {some(faults, '; ')}", where=where)


def refuse_different(model: nn.Module, other: nn.Module) -> None:
    """Raise UserError unless both have the same tensors, in the types of `model`; unstored buffers included."""
    theirs = other.state_dict()
    refuse_unlike(model, theirs)
    own, theirs = (dict(each.named_buffers()) | each.state_dict() for each in (model, other))
    odd = [name for name in own if name not in theirs or not _same(own[name], theirs[name].to(own[name].dtype))]
    if odd:
        raise UserError(f"these have other values: {some(odd)}")


def some(names: Iterable[str], between: str = ", ") -> str:
    """The first of `names`, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return between.join(every[:SHOWN]) + more


def _same(one: Tensor, two: Tensor) -> bool:
    """Whether the values are the same; a nan is the same as another, though it equals none."""
    if torch.equal(one, two):
        return True
    odd = one.isnan()
    return bool(odd.any()) and torch.equal(odd, two.isnan()) and torch.equal(one[~odd], two[~odd])


def _at_odds(groups: Iterable[list[str]], stored: Mapping[str, Tensor]) -> Iterable[tuple[str, str]]:
    for names in groups:
        first, *others = [name for name in names if name in stored] or [""]
        for other in others:
            one, two = stored[first], stored[other]
            if one.dtype != two.dtype or not _same(one, two):
                yield first, other
