"""8-bit products put into a model, and what is said of them."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from galore.kernels.ops.matmul.draws import Draws
from galore.kernels.ops.matmul.products import EightBit, Inputs
from galore.kernels.storage.rounding import mix
from galore.trainer.common.errors import UserError
from galore.trainer.common.format import counted
from galore.trainer.models.matmul.choose import WHERE, chosen_format
from galore.trainer.models.matmul.layers import eight_bit_layers, in_words, users_of
from galore.trainer.optim import multiply_by
from galore.trainer.optim.galore import GaLoreAdamW
from galore.trainer.optim.int8_linear import Int8Linear
from galore.trainer.recipe.schema.recipe import Recipe

ATTRIBUTE = "_draws"  # of the model: the random bits of its layers


def multiply_in_eight_bits(model: nn.Module, recipe: Recipe, device: torch.device) -> list[str]:
    """Let the linear layers of `model`'s blocks multiply as `train.matmul` says; returns lines that say so.

    While gradients are wanted, that is: what is evaluated is the model as it is exported.

    Raises:
        UserError: the device cannot, or no layer of the model can.
    """
    train = recipe.train
    if train.matmul == "bf16":
        return []
    form, why = chosen_format(train.matmul, device, train.micro_batch_size * recipe.data.max_length)
    if form is None:
        return [f"products: {recipe.model.dtype} ({why})"]
    chosen, left = eight_bit_layers(model)
    if not chosen:
        raise UserError(
            f"no linear layer of {type(model).__name__} can multiply in {form.name}: {in_words(left) or 'it has none'}",
            where=WHERE,
            fix="write bf16",
        )
    draws, inputs, users = Draws(train.seed), Inputs(), users_of(chosen)
    for number, (name, layer) in enumerate(chosen.items()):
        multiply_by(layer, EightBit(form, draws, number, inputs=inputs, users=users[name]))
    codes = sum(isinstance(layer, Int8Linear) for layer in chosen.values())
    as_they_are = ", codes of the weights read as they are" if codes and form.reads_int8 else ""
    line = (
        f"products: {form.name} ({why}): forward and input gradient of {counted(len(chosen), 'linear layer')}{as_they_are}"
        f"; gradients of weights, and evaluation, in {recipe.model.dtype}"
    )
    rest = f"; in {recipe.model.dtype}: {in_words(left)}" if left else ""
    setattr(model, ATTRIBUTE, draws)
    return [line + rest]


def multiplies_in_eight_bits(model: nn.Module) -> bool:
    """Whether layers of `model` were made to."""
    return hasattr(model, ATTRIBUTE)


def follow_steps(model: nn.Module, optimizer: GaLoreAdamW, rank: int) -> None:
    """Let what `model` rounds by chance be a function of the optimizer's step, and other on every rank."""
    draws: Draws | None = getattr(model, ATTRIBUTE, None)
    if draws is None:
        return
    draws.seed = mix(draws.seed, rank) if rank else draws.seed
    followed = weakref.ref(optimizer)  # a model does not hold its optimizer
    draws.clock = lambda: _clock(followed())
    optimizer.register_step_post_hook(lambda *_: draws.forget())


def _clock(optimizer: GaLoreAdamW | None) -> int:
    return 0 if optimizer is None else optimizer.clock
