"""The linear layers that may become something else: 8 bits, adapters, products."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from galore.trainer.common.errors import UserError
from galore.trainer.optim.groups import is_under, shared_weights, target_modules
from galore.trainer.optim.int8_linear import Int8Linear

WHERE = "optim.target_modules"


def plain_linears(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """{path: layer} of the linear layers under `patterns`, without subclasses that compute something of their own, such
    as a router: only their own forward knows what.

    Raises:
        UserError: a pattern matches no linear layer, or none but such.
    """
    try:
        found = target_modules(model, patterns, nn.Linear)
    except ValueError as error:
        raise UserError(str(error), where=WHERE) from error
    plain = {name: module for name, module in found.items() if is_plain(module)}
    for pattern in patterns:
        if not any(is_under(name, [pattern]) for name in plain):
            name, module = next((name, module) for name, module in found.items() if is_under(name, [pattern]))
            raise UserError(
                f"{pattern!r} matches {name} ({type(module).__name__}), which is no plain linear layer, and nothing else",
                where=WHERE,
                fix=f"leave {pattern} out",
            )
    return plain


def int8_linears(model: nn.Module, patterns: Sequence[str]) -> list[nn.Linear]:
    """The `plain_linears` under `patterns`, whose weights are to be kept in 8 bits.

    Raises:
        UserError: see `plain_linears`; or one of them shares its weight with another module, whose it would be no more.
    """
    chosen, shared = plain_linears(model, patterns), shared_weights(model)
    for path, module in chosen.items():
        others = [name for name in shared.get(id(module.weight), ()) if name != path]
        if others:
            raise UserError(
                f"{path} shares its weight with {others[0]}, and codes in int8 cannot be shared",
                where=WHERE,
                fix="leave it out, or optim.weight_dtype; of an output head, set model.tie_word_embeddings: false",
            )
    return list(chosen.values())


def is_plain(module: nn.Module) -> bool:
    """Whether `module` computes x Wᵀ + bias, its weight in floating point or in 8 bits."""
    return isinstance(module, Int8Linear) or getattr(type(module), "forward", None) is nn.Linear.forward


def left_alone(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """A line about linear layers under `patterns` that `plain_linears` leaves out."""
    others = {
        re.sub(r"\.\d+\.", ".*.", name): type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not is_plain(module) and is_under(name, patterns)
    }
    names = ", ".join(f"{name} ({kind})" for name, kind in others.items())
    return [f"left as they are, for they compute more than a product: {names}"] if others else []
