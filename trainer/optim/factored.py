"""Projecting inside the backward of linear layers, so that between refreshes the m×n gradient never exists."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from galore.kernels.linear import (
    Factored,
    Factors,
    Pieces,
    Products,
    factored_linear,
    gather,
    in_tiles,
    product_linear,
    rows_of,
    saves_work,
)
from galore.trainer.optim.galore import GaLoreAdamW
from galore.trainer.optim.groups import shared_weights
from galore.trainer.optim.int8_linear import Int8Linear, int8_layers, refuse_left_behind
from galore.trainer.optim.parts.hooks import has_hook, shielded
from galore.trainer.optim.parts.shards import local
from galore.trainer.optim.projected import ProjectedSlot


class Taker(NamedTuple):
    """Who takes a layer's factors, held weakly: a model keeps no optimizer alive that nobody else has."""

    slot: weakref.ref[ProjectedSlot]
    optimizer: weakref.ref[GaLoreAdamW]

    @classmethod
    def of(cls, slot: ProjectedSlot, optimizer: GaLoreAdamW) -> Taker:
        """The slot of one weight in `optimizer`."""
        return cls(weakref.ref(slot), weakref.ref(optimizer))

    @property
    def attached(self) -> tuple[ProjectedSlot, GaLoreAdamW] | None:
        """Both, while the optimizer lives and takes gradients."""
        slot, optimizer = self.slot(), self.optimizer()
        return None if slot is None or optimizer is None or not optimizer.attached else (slot, optimizer)


def project_in_backward(model: nn.Module, optimizer: GaLoreAdamW) -> int:
    """Let the projected linear layers of `model` give `optimizer` factors; returns how many matrices do.

    Layers with a bias, or with a forward of their own, keep the hook; so does a weight that `register_hook` was called
    on, a rank too high to save work, or a step that needs the whole gradient for its refresh; and with
    `update="immediate"` a weight of several modules. The results are those of the hook up to rounding. A copy of the
    model is as it was before.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and _takes_hooks(module)]
    slots = {id(slot.parameter): slot for slot in optimizer.projected}
    # the first of its backwards would move it under the others
    kept = shared_weights(model) if optimizer.update == "immediate" else {}
    # under torch.compile a forward sees no hook
    kept |= {id(module.weight): [] for module in linears if has_hook(module.weight)}
    taken = [module for module in linears if id(module.weight) in slots and id(module.weight) not in kept]
    chosen = [(module, slots[id(module.weight)]) for module in taken]
    for module, slot in chosen:
        slot.factored = True
        # only where ranks begin to send is it asked when autograd has done with a weight
        taker = Taker.of(slot, optimizer)
        by = Factored(functools.partial(_receive, taker), slot.transposed, in_graph=optimizer.ranks is not None)
        module.__dict__["forward"] = functools.partial(_forward, module, taker, by)
        # copying and pickling ask the instance, whose class has to stay nn.Linear: others look at it
        module.__dict__["__getstate__"] = functools.partial(_without_receiver, module)
    return len(chosen)


def hand_over_int8(model: nn.Module, optimizer: GaLoreAdamW) -> int:
    """Let the layers of `model` whose weights are in int8 give `optimizer` factors, the only form their gradients have;
    returns how many do.

    Raises:
        ValueError: a module of `model` had one weight with a layer that is in int8 now.
    """
    refuse_left_behind(model)
    slots = {id(slot.parameter): slot for slot in optimizer.projected}
    layers = [layer for layer in int8_layers(model) if id(layer.weight) in slots]
    for layer in layers:
        slot = slots[id(layer.weight)]
        slot.weight.scales, slot.weight.product_dtype = local(layer.weight_scale), layer.dtype
        taker = Taker.of(slot, optimizer)
        layer.receive, layer.transposed = functools.partial(_receive, taker), slot.transposed
        layer.expect = functools.partial(_expect, taker)
    return len(layers)


def multiply_by(module: nn.Linear, products: Products) -> None:
    """Let `products` multiply in a linear layer while it is trained, and nn.Linear where no gradient is wanted."""
    vars(module)[PRODUCTS] = products
    if not isinstance(module, Int8Linear):
        vars(module)["forward"] = functools.partial(_by_products, module)


PRODUCTS = "products"  # attribute of a layer
USED_TWICE = (
    "{} has moved in this step, and another gradient of it has come: with update: immediate a layer that hands over "
    "factors can be used once in a forward, and a step has one backward; take update: accumulate, or for weights that "
    "are not in int8 projection: hook (leave out project_in_backward)"
)


# forwards name their argument as nn.Linear does, for those who call layer(input=x)
def _by_products(module: nn.Linear, input: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return nn.functional.linear(input, module.weight, module.bias)
    return product_linear(input, module.weight, module.bias, vars(module)[PRODUCTS])


def _takes_hooks(module: nn.Linear) -> bool:
    return not has_bias(module) and not isinstance(module, Int8Linear) and not has_own_forward(module)


def has_own_forward(module: nn.Linear) -> bool:
    """Whether the layer does something else than nn.Linear: a subclass may return more than the product."""
    put = module.__dict__.get("forward")
    ours = _put_by(put, _forward) or _put_by(put, _by_products)
    return type(module).forward is not nn.Linear.forward or not (put is None or ours)


def _put_by(put: object, forward: Callable[..., Tensor]) -> bool:
    return isinstance(put, functools.partial) and put.func is forward


def _without_receiver(module: nn.Linear) -> dict[str, Any]:
    """The attributes of a copy of `module`, whose gradients stay its own."""
    state = {name: each for name, each in vars(module).items() if name != "__getstate__"}
    if _put_by(state["forward"], _forward):
        del state["forward"]
        if PRODUCTS in state:
            state["forward"] = functools.partial(_by_products, module)
    return state


def has_bias(module: nn.Linear) -> bool:
    """Whether the layer adds a bias; torch types it as always there."""
    return getattr(module, "bias", None) is not None


def _forward(module: nn.Linear, taker: Taker, by: Factored, input: Tensor) -> Tensor:
    held, weight = vars(module), module.weight
    if _gives_factors(weight, taker, rows_of(input)):
        return factored_linear(input, weight, by._replace(products=held[PRODUCTS]) if PRODUCTS in held else by)
    return _by_products(module, input) if PRODUCTS in held else nn.functional.linear(input, weight)


def _gives_factors(weight: Tensor, taker: Taker, rows: int) -> bool:
    """Whether the backward of so many rows forms no gradient of `weight`; one with a hook has it."""
    by = taker.attached if torch.is_grad_enabled() and weight.requires_grad else None
    if by is None:
        return False
    slot, (m, n) = by[0], weight.shape
    return slot.refresh.takes_factors and saves_work(rows, m, n, slot.rank) and not has_hook(weight)


def kinds_with_own_forward(optimizer: GaLoreAdamW, model: nn.Module) -> list[str]:
    """Names of the kinds of linear layers that are projected in the hook, since their own forward stays."""
    slots = {id(slot.parameter) for slot in optimizer.projected}
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module.weight) in slots]
    own = [module for module in linears if not isinstance(module, Int8Linear) and has_own_forward(module)]
    return sorted({type(module).__name__ for module in own})


def _expect(taker: Taker) -> None:
    if (by := taker.attached) is not None and not by[1].in_pass:
        by[0].refresh.expect()


@shielded
def _receive(taker: Taker, factors: Factors) -> None:
    if (by := taker.attached) is None:
        return
    slot, optimizer = by
    if optimizer.in_pass and not slot.refresh.wants_pass:
        return
    if slot.moved:
        raise RuntimeError(USED_TWICE.format(slot.name))
    if in_tiles():
        begin = functools.partial(_pieces, slot, optimizer.in_pass)
        gather(slot, factors, begin, shielded(functools.partial(optimizer.take, slot)))
    else:
        optimizer.take(slot, factors)


def _pieces(slot: ProjectedSlot, in_pass: bool) -> Pieces:
    """What adds up a gradient that comes in tiles: as much of it as the slot will take."""
    refresh = slot.refresh
    if not (refresh.sketches if in_pass else refresh.takes_factors):
        return Pieces()
    omega = refresh.test_matrix() if in_pass or slot.due else None
    columns = None if in_pass or refresh.sampled is None else refresh.sampled.block
    return Pieces(None if in_pass else slot.projector, omega, columns)
