"""What method: lora makes of a model: adapters beside its matrices, or products in their place; and back again."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from galore.trainer.models.adapters.factors import factorize, multiplied_out
from galore.trainer.models.adapters.lora import add_adapters, merged
from galore.trainer.models.linears import int8_linears
from galore.trainer.optim.int8_linear import Int8Linear, to_floating, to_int8
from galore.trainer.recipe.schema.optim import OptimSection


def adapted(model: PreTrainedModel, optim: OptimSection, seed: int) -> nn.Module:
    """`model` in the form that `optim` trains; as it is unless method: lora. `model` is used up.

    Raises:
        UserError: see `add_adapters` and `factorize`.
    """
    form: nn.Module = model
    if optim.weight_dtype == "int8":
        for linear in int8_linears(model, optim.target_modules):
            if not isinstance(linear, Int8Linear):
                to_int8(linear)
    if optim.method == "lora":
        form = factorize(model, optim, seed) if optim.adapter == "factors" else add_adapters(model, optim, seed)
    return form


def plain(model: nn.Module) -> PreTrainedModel:
    """The transformers model that computes what `model` does: adapters merged, products multiplied out, no codes."""
    to_floating(model)
    return multiplied_out(merged(model))
