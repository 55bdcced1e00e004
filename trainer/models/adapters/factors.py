"""Matrices trained as products W = B·A of rank r from a random start, no W: the low-rank control of GaLore's table.

Unlike an adapter a product can never leave rank r. Everything else in the model is trained in full.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from galore.kernels.storage.rounding import mix
from galore.trainer.models.adapters.lora import adapter_ranks, refuse_tied
from galore.trainer.recipe.schema.optim import OptimSection

INITIALIZER_RANGE = 0.02  # of models whose configuration names none
DRAW = 0xFAC7  # what sets these random numbers apart from all others of the seed


class Product(nn.Module):
    """y = B (A x) + bias in place of `linear` (m, n): `factor_a` (r, n), then `factor_b` (m, r), which has the bias."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.factor_a = _linear(a, None)
        self.factor_b = _linear(b, linear.bias)
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:  # (…, n) → (…, m)
        y: Tensor = self.factor_b(self.factor_a(input))
        return y

    @torch.no_grad()
    def multiplied(self) -> nn.Linear:
        """One linear layer of weight B·A, the product formed in fp32 and rounded once."""
        a, b = self.factor_a.weight, self.factor_b.weight
        return _linear((b.float() @ a.float()).to(b.dtype), self.factor_b.bias)


def factorize(model: PreTrainedModel, optim: OptimSection, seed: int) -> PreTrainedModel:
    """`model`, in place, with a `Product` for each linear layer under `optim.target_modules`; whose weights are gone.

    A and B are Gaussian, drawn in float32 from (seed, layer) and cast, of one deviation σ with √r·σ² the model's
    initializer_range: B·A then starts with entries of the size that W would have had. Ranks are clamped to min(m, n).

    Raises:
        UserError: a pattern matches no linear layer, or a layer shares its weight with another module.
    """
    ranks = adapter_ranks(model, optim)
    refuse_tied(model, ranks)
    size = float(getattr(model.config.get_text_config(), "initializer_range", None) or INITIALIZER_RANGE)
    for index, (name, rank) in enumerate(ranks.items()):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        generator = torch.Generator().manual_seed(mix(seed, DRAW, index))
        deviation = (size / rank**0.5) ** 0.5
        a = _drawn((rank, linear.in_features), deviation, generator, linear.weight)
        b = _drawn((linear.out_features, rank), deviation, generator, linear.weight)
        _put(model, name, Product(linear, a, b))
    return model


def multiplied_out(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, in place, with one linear layer for each `Product`: a plain transformers model."""
    products = {name: module for name, module in model.named_modules() if isinstance(module, Product)}
    for name, product in products.items():
        _put(model, name, product.multiplied())
    return model


def _drawn(shape: tuple[int, int], deviation: float, generator: torch.Generator, like: Tensor) -> Tensor:
    if like.is_meta:
        return torch.empty(shape, dtype=like.dtype, device="meta")
    return (torch.randn(shape, generator=generator, dtype=torch.float32) * deviation).to(like.device, like.dtype)


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    """A linear layer of these tensors; nothing is drawn."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = bias
    return layer


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    setattr(owner, leaf, module)
