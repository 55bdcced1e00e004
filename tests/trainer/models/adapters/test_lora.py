from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from galore.kernels.reference import methods
from galore.trainer.common.errors import UserError
from galore.trainer.models.adapters.lora import adapter_ranks, add_adapters, clamp_note, merged
from galore.trainer.recipe.schema.optim import OptimSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(32).view(2, 16)


def lora(**fields: Any) -> OptimSection:
    return OptimSection(method="lora", **({"rank": 4, "lora_alpha": 8.0} | fields))


def shake(model: nn.Module) -> None:
    """Give B values, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_adapts_the_linear_layers_under_the_patterns_and_freezes_the_rest(build: Build) -> None:
    names = trainable(add_adapters(build(), lora(target_modules=("self_attn", "mlp.down_proj")), seed=0))
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    assert names == {
        f"base_model.model.model.layers.{i}.{layer}.lora_{ab}.default.weight"
        for i in range(2) for layer in layers for ab in "AB"
    }  # fmt: skip


def test_state_dict_names(build: Build) -> None:
    names = add_adapters(build(), lora(), seed=0).state_dict().keys()
    assert "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight" in names
    assert "base_model.model.model.layers.1.mlp.up_proj.lora_A.default.weight" in names
    assert "base_model.model.model.embed_tokens.weight" in names
    assert "base_model.model.lm_head.weight" in names
    assert len(names) == len(build().state_dict()) + 2 * 14


def test_starts_as_the_model_it_wraps(build: Build) -> None:
    plain = build()(IDS).logits
    assert torch.equal(add_adapters(build(), lora(), seed=0)(input_ids=IDS).logits, plain)


def test_adapters_are_drawn_from_the_seed_in_float32_and_cast(build: Build) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    exact = add_adapters(build(), lora(), seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    rounded = add_adapters(build(dtype="bfloat16"), lora(), seed=7).state_dict()
    other = add_adapters(build(), lora(), seed=8).state_dict()
    for name, tensor in exact.items():
        assert rounded[name].dtype == torch.bfloat16
        assert torch.equal(rounded[name], tensor.bfloat16()), name
        if "lora_A" in name:
            assert not torch.equal(other[name], tensor), name


@pytest.mark.parametrize("rank", [4, 40])  # 40 exceeds both k_proj (16) and q_proj (32)
def test_update_is_scaled_by_alpha_over_the_recipes_rank(build: Build, rank: int) -> None:
    model = add_adapters(build(), lora(rank=rank), seed=0)
    shake(model)
    state = {name.removeprefix("base_model.model."): tensor.clone() for name, tensor in model.state_dict().items()}
    result = merged(model).state_dict()
    for path in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        a, b = state[f"{path}.lora_A.default.weight"], state[f"{path}.lora_B.default.weight"]
        expected = methods.lora(state[f"{path}.base_layer.weight"], a, b, alpha=8.0, r=rank)
        torch.testing.assert_close(result[f"{path}.weight"], expected)


def test_rank_is_clamped_to_the_smaller_side_and_told(build: Build) -> None:
    model = build()
    ranks = adapter_ranks(model, lora(rank=20))
    assert ranks["model.layers.0.self_attn.k_proj"] == 16
    assert ranks["model.layers.0.self_attn.q_proj"] == 20
    note = clamp_note(ranks, 20)
    assert note is not None
    assert "4 layers" in note
    assert clamp_note(adapter_ranks(model, lora(rank=16)), 16) is None
    state = add_adapters(model, lora(rank=20), seed=0).state_dict()
    assert state["base_model.model.model.layers.0.self_attn.k_proj.lora_A.default.weight"].shape == (16, 32)
    assert state["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"].shape == (20, 32)


def test_a_pattern_that_matches_nothing_names_the_nearest(build: Build) -> None:
    with pytest.raises(UserError, match=r"self_atn.*self_attn") as refused:
        add_adapters(build(), lora(target_modules=("self_atn",)), seed=0)
    assert refused.value.where == "optim.target_modules"


def test_train_modules_are_trained_in_place_under_their_own_names(build: Build) -> None:
    model = add_adapters(build(), lora(train_modules=("embed_tokens", "norm")), seed=0)
    in_full = {name for name in trainable(model) if "lora" not in name}
    assert in_full == {"base_model.model.model.embed_tokens.weight", "base_model.model.model.norm.weight"}


def test_unknown_train_modules_name_the_nearest(build: Build) -> None:
    with pytest.raises(UserError, match=r"embed_token'.*embed_tokens") as refused:
        add_adapters(build(), lora(train_modules=("embed_token",)), seed=0)
    assert refused.value.where == "optim.train_modules"


def test_a_module_is_not_both_adapted_and_trained_in_full(build: Build) -> None:
    with pytest.raises(UserError, match="would be adapted and trained in full"):
        add_adapters(build(), lora(train_modules=("mlp",)), seed=0)


def test_gradients_reach_every_trained_tensor_and_no_other(build: Build) -> None:
    model = add_adapters(build(), lora(train_modules=("lm_head",)), seed=0)
    shake(model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trainable(model)


@pytest.mark.parametrize("tied", [False, True])
def test_merged_computes_what_the_adapted_model_did(build: Build, tied: bool) -> None:
    model = add_adapters(build(tie_word_embeddings=tied), lora(), seed=0)
    shake(model)
    adapted = model.eval()(input_ids=IDS).logits
    result = merged(model)
    assert type(result) is LlamaForCausalLM
    assert result.state_dict().keys() == build(tie_word_embeddings=tied).state_dict().keys()
    torch.testing.assert_close(result(IDS).logits, adapted)
    assert not torch.allclose(adapted, build(tie_word_embeddings=tied)(IDS).logits, atol=1e-3)


def test_merged_leaves_a_plain_model_alone(build: Build) -> None:
    model = build()
    assert merged(model) is model


def test_dropout_acts_in_training_only(build: Build) -> None:
    model = add_adapters(build(), lora(lora_dropout=0.5), seed=0)
    shake(model)
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    model.eval()
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_on_meta_allocate_nothing_and_are_of_the_type_they_would_be(build: Build, dtype: str) -> None:
    model = add_adapters(build(device="meta", dtype=dtype), lora(), seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())
    real = add_adapters(build(dtype=dtype), lora(), seed=0)
    assert {name: p.dtype for name, p in model.named_parameters()} == {
        name: p.dtype for name, p in real.named_parameters()
    }


def test_without_peft_the_extra_is_named(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="peft") as refused:
        add_adapters(build(), lora(), seed=0)
    assert refused.value.fix == "pip install 'galore-llm[lora]'"
