"""Which form of a model a recipe trains, and the way back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from galore.trainer.models.adapt import adapted, plain
from galore.trainer.models.factors import Product
from galore.trainer.models.materialise import adopt_weights
from galore.trainer.recipe.optim_section import OptimSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(32).view(2, 16)


@pytest.mark.parametrize("adapter", [None, "lora", "relora", "factors"])
def test_a_checkpoint_of_every_form_becomes_the_plain_model(build: Build, adapter: str | None) -> None:
    pytest.importorskip("peft", reason="the lora extra is not installed")
    optim = OptimSection(method="lora", adapter=adapter, rank=4)
    model = adapted(build(), optim, seed=1).eval()
    assert any(isinstance(module, Product) for module in model.modules()) == (adapter == "factors")
    tensors = {name: tensor.detach() + 0.01 for name, tensor in model.named_parameters()}
    adopt_weights(model, tensors, device="cpu")
    logits = model(input_ids=IDS).logits  # now: the tensors are shared, and merging changes them
    empty = adapted(build(device="meta"), optim, seed=0)
    adopt_weights(empty, tensors, device="cpu")
    result = plain(empty).eval()
    assert type(result) is LlamaForCausalLM
    assert result.state_dict().keys() == build().state_dict().keys()
    torch.testing.assert_close(result(input_ids=IDS).logits, logits)


@pytest.mark.parametrize("method", ["galore", "full"])
def test_other_methods_train_the_model_as_it_is(build: Build, method: str) -> None:
    model = build()
    assert adapted(model, OptimSection(method=method), seed=0) is model
    assert plain(model) is model
