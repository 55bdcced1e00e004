"""The auxiliary loss of a mixture of experts, which keeps its router from sending all tokens to few of them.

It is transformers' own function over the router logits of a forward pass (Switch Transformers, arXiv 2101.03961): E · Σ
fᵉ · pᵉ, with the share of choices fᵉ and the mean probability pᵉ of expert e over all layers and tokens. As a product
of two means it is no sum over tokens: what is added of a step is the mean over its micro-batches, by their tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import OutputRecorder

from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import without_adapters
from galore.trainer.models.pretrained import locate, read_config
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe

WHERE = "model.router_aux_loss"
FUNCTION = "load_balancing_loss_func"  # in transformers' modules of such models
ASKED, COEFFICIENT = "output_router_logits", "router_aux_loss_coef"  # in their configurations


class RouterLoss:
    """The routers of `model`, watched, and the `coefficient` of their loss."""

    def __init__(self, model: nn.Module, coefficient: float) -> None:
        base: Any = without_adapters(model)
        self.coefficient = coefficient
        self._function = getattr(sys.modules[type(base).__module__], FUNCTION)
        self._of = base.num_experts, base.num_experts_per_tok
        self._logits = list[Tensor]()
        self._open = False
        for router, index in _routers(base):
            router.register_forward_hook(partial(self._see, index))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A context of one forward pass with gradients; recomputed blocks and evaluations are not looked at."""
        self._logits.clear()
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def taken(self) -> Tensor:
        """The loss of the pass that was watched, without the coefficient, (), fp32, with its gradient."""
        found: Tensor = self._function(tuple(self._logits), *self._of)
        self._logits.clear()
        return found

    def _see(self, index: int, router: nn.Module, arguments: Any, output: Any) -> None:
        if self._open and torch.is_grad_enabled():
            self._logits.append(output[index] if isinstance(output, tuple) else output)


def build_router(recipe: Recipe, model: nn.Module) -> RouterLoss | None:
    """The loss that the recipe asks for, or where it is silent the model's configuration; None where neither does.

    Raises:
        UserError: the recipe asks for it, and the model has no such loss.
    """
    asked = recipe.model.router_aux_loss
    coefficient = _configured(model) if asked is None else asked
    if not coefficient:
        return None
    if recipe.data.task is None and _has_loss(model):
        return RouterLoss(model, coefficient)
    if asked is None:
        return None
    what = "a classifier has no such loss in transformers" if recipe.data.task else "the model has no such loss"
    raise UserError(f"{asked:g}: {what}", where=WHERE, fix="leave it out, or set it to 0")


def router_note(recipe: Recipe, model: nn.Module) -> list[str]:
    """A line about the auxiliary loss of a mixture of experts: what is added of it, or that its configuration asks for
    one that is not."""
    router, asked = recipe.model.router_aux_loss, _configured(model)
    coefficient = asked if router is None else router
    if coefficient and recipe.data.task is None and _has_loss(model):
        return [f"router: {coefficient:g} times its auxiliary loss of each micro-batch beside the cross-entropy"]
    if not asked:
        return []
    return [f"router: trained on the cross-entropy alone, without its auxiliary loss ({COEFFICIENT} {asked:g})"]


def is_configured(loaded: LoadedRecipe) -> bool:
    """Whether the configuration that `model.name_or_path` names asks for the loss.

    Raises:
        UserError: it cannot be read.
    """
    section = loaded.recipe.model
    if section.name_or_path is None:
        return False
    return _coefficient_of(read_config(locate(str(section.name_or_path), loaded.base_dir), section.revision)) > 0


def _configured(model: nn.Module) -> float:
    """The coefficient of a configuration that asks for the loss; 0 of another."""
    return _coefficient_of(getattr(without_adapters(model), "config", None))


def _coefficient_of(config: object) -> float:
    asks = getattr(config, ASKED, False)
    return float(getattr(config, COEFFICIENT, None) or 0.0) if asks else 0.0


def _has_loss(model: nn.Module) -> bool:
    base: Any = without_adapters(model)
    known = hasattr(sys.modules[type(base).__module__], FUNCTION)
    return known and hasattr(base, "num_experts") and hasattr(base, "num_experts_per_tok") and any(_routers(base))


def _routers(base: Any) -> Iterator[tuple[nn.Module, int]]:
    """The routers, and where their logits are among what they return, as transformers itself records them."""
    body = base.get_decoder() if hasattr(base, "get_decoder") else base
    recorder = (getattr(body, "_can_record_outputs", None) or {}).get("router_logits")
    if not isinstance(recorder, OutputRecorder):
        return
    for name, module in body.named_modules():
        if isinstance(module, recorder.target_class) and name.endswith(recorder.layer_name or ""):
            yield module, recorder.index
