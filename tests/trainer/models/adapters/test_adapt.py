"""Which form of a model a recipe trains, and the way back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from galore.trainer.checkpoint.state import model_tensors
from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.adapt import adapted, plain
from galore.trainer.models.adapters.factors import Product
from galore.trainer.models.materialize import adopt_weights
from galore.trainer.optim.int8_linear import int8_layers
from galore.trainer.recipe.schema.optim import OptimSection

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_in_8_bits_pass_through_a_checkpoint_to_the_plain_model(build: Build, dtype: str) -> None:
    optim = OptimSection(method="galore", weight_dtype="int8")
    model = adapted(build(dtype=dtype), optim, seed=1).eval()
    assert len(int8_layers(model)) == 14
    logits, tensors = model(input_ids=IDS).logits, model_tensors(model)
    empty = adapted(build(dtype=dtype, device="meta"), optim, seed=0)
    adopt_weights(empty, tensors, device="cpu")
    again = empty.eval()(input_ids=IDS).logits
    assert torch.equal(again, logits)
    result = plain(empty).eval()
    assert result.state_dict().keys() == build().state_dict().keys()
    assert {type(module) for module in result.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    assert torch.equal(result(input_ids=IDS).logits, logits)


def test_a_shared_weight_is_not_for_8_bits_and_nothing_is_converted(build: Build) -> None:
    model = build()
    first, second = (layer.mlp.up_proj for layer in model.model.layers)
    second.weight = first.weight
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.up_proj shares its weight with model\.layers\.1\.mlp\.up_proj"
    ):
        adapted(model, OptimSection(method="galore", weight_dtype="int8"), seed=1)
    assert int8_layers(model) == []
