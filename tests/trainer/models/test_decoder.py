from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from galore.kernels.ops.int8 import quantize
from galore.trainer.common.errors import UserError
from galore.trainer.models.retnet.modeling_retnet import RetNetForCausalLM
from galore.trainer.optim.groups import galore_groups
from galore.trainer.optim.int8_linear import int8_layers

Build = Callable[..., PreTrainedModel]


def parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_has_the_dimensions_of_the_recipe(build: Build) -> None:
    model = build(vocab_size=100)
    assert isinstance(model, LlamaForCausalLM)
    assert model.model.embed_tokens.weight.shape == (100, 32)
    assert model.lm_head.weight.shape == (100, 32)
    attention = model.model.layers[1].self_attn
    assert attention.q_proj.weight.shape == (32, 32)
    assert attention.k_proj.weight.shape == (16, 32)  # 2 of 4 heads
    assert model.model.layers[0].mlp.gate_proj.weight.shape == (48, 32)
    assert model.training
    assert model.config.use_cache is False
    assert model.config.eos_token_id is None


def test_a_retnet_has_the_dimensions_of_the_recipe_and_is_projected_whole(build: Build) -> None:
    model = build(vocab_size=100, architecture="retnet", num_key_value_heads=None, rms_norm_eps=1e-5)
    assert isinstance(model, RetNetForCausalLM)
    retention = model.model.layers[1].self_attn
    assert retention.v_proj.weight.shape == (64, 32)
    assert retention.group_norm.num_groups == 4
    assert retention.group_norm.eps == 1e-5
    assert model.model.layers[0].mlp.up_proj.weight.shape == (48, 32)
    targets, *rest = galore_groups(model, 4)
    assert len(targets["params"]) == 2 * 7
    assert {name.split(".")[-2] for group in rest for name, p in group["params"] if p.ndim > 1} == {
        "embed_tokens",
        "lm_head",
    }


def test_weights_have_the_spread_asked_for_and_norms_are_one(build: Build) -> None:
    weights = parameters(build(initializer_range=0.05))
    for name, weight in weights.items():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight)), name
        else:
            assert weight.std().item() == pytest.approx(0.05, rel=0.1), name
            assert abs(weight.mean().item()) < 0.01, name


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_starts_from_the_float32_numbers(build: Build, tied: bool) -> None:
    exact, rounded = build(tie_word_embeddings=tied), build(tie_word_embeddings=tied, dtype="bfloat16")
    assert rounded.dtype == torch.bfloat16
    assert rounded.config.dtype == torch.bfloat16
    for name, weight in parameters(exact).items():
        assert torch.equal(weight.bfloat16(), parameters(rounded)[name]), name
    assert not torch.equal(exact.lm_head.weight, rounded.lm_head.weight.float())


def test_tied_head_is_one_parameter(build: Build) -> None:
    model = build(tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert "lm_head.weight" not in parameters(model)


def test_weights_depend_on_the_seed_alone_and_leave_the_global_state(build: Build) -> None:
    torch.manual_seed(5)
    first = parameters(build(seed=1))
    torch.manual_seed(6)
    before = torch.get_rng_state()
    again, other = parameters(build(seed=1)), parameters(build(seed=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_no_two_matrices_are_alike(build: Build) -> None:
    layers = build().model.layers
    assert not torch.equal(layers[0].self_attn.q_proj.weight, layers[1].self_attn.q_proj.weight)
    assert not torch.equal(layers[0].self_attn.q_proj.weight, layers[0].self_attn.o_proj.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotary_frequencies_are_exact(build: Build, dtype: str) -> None:
    frequencies = build(dtype=dtype, rope_theta=500.0).model.rotary_emb.inv_freq
    expected = torch.tensor([500.0 ** (-2 * i / 8) for i in range(4)])
    assert frequencies.dtype == torch.float32
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)


def test_built_from_meta_as_transformers_builds_it(build: Build) -> None:
    ours = build().eval()
    theirs = LlamaForCausalLM(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(0, 100, (2, 16))
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_meta_allocates_nothing(build: Build) -> None:
    model = build(device="meta", hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, dtype="bfloat16")
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.dtype == torch.bfloat16


def test_meta_does_not_ask_for_flash_attention(build: Build) -> None:
    assert build(device="meta", attn_implementation="flash_attention_2", dtype="bfloat16").dtype == torch.bfloat16


def test_vocabulary_too_small_is_refused_with_both_numbers(build: Build) -> None:
    with pytest.raises(UserError, match=r"90 .*100"):
        build(100, rows=90)


def test_sequences_longer_than_the_positions_are_refused_with_both_numbers(build: Build) -> None:
    with pytest.raises(UserError, match=r"65 .*64"):
        build(max_length=65)


def test_flash_attention_is_refused_on_the_cpu(build: Build) -> None:
    with pytest.raises(UserError, match="CUDA"):
        build(attn_implementation="flash_attention_2", dtype="bfloat16")


def test_eager_and_sdpa_agree(build: Build) -> None:
    ids = torch.randint(0, 100, (2, 16))
    eager, sdpa = build(attn_implementation="eager"), build(attn_implementation="sdpa")
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(ids).logits, sdpa(ids).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["drawn", "folder"])
def test_weights_in_8_bits_are_those_numbers_rounded(
    build: Build, tmp_path: Path, source: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder they are rounded on the CPU, before the model moves to its device."""
    fields: dict[str, Any] = {"dtype": dtype, "seed": 3}
    exact = build(**fields)
    if source == "folder":
        exact.save_pretrained(tmp_path / "stored")
        fields["name_or_path"] = "stored"
    moved: list[int] = []
    to = PreTrainedModel.to
    monkeypatch.setattr(
        PreTrainedModel, "to", lambda self, *a, **k: moved.append(len(int8_layers(self))) or to(self, *a, **k)
    )
    model = build(**fields, in_int8=("self_attn", "mlp"))
    assert moved == ([14] if source == "folder" else [])
    for name, module in exact.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            layer, (codes, scales) = model.get_submodule(name), quantize(module.weight)
            assert torch.equal(layer.weight, codes)
            assert torch.equal(layer.weight_scale, scales)
            assert layer.dtype == exact.dtype
    assert len(int8_layers(model)) == 14
    assert torch.equal(model.lm_head.weight, exact.lm_head.weight)
    assert model.dtype == exact.dtype
    ids = torch.arange(32).view(2, 16)
    assert (model(ids).logits - exact(ids).logits).norm() < 0.05 * exact(ids).logits.norm()


def test_on_meta_8_bits_have_the_same_shapes(build: Build) -> None:
    planned, model = (build(device=device, dtype="bfloat16", in_int8=("mlp",)) for device in ("meta", "cpu"))
    kinds = [{k: (t.shape, t.dtype) for k, t in each.state_dict().items()} for each in (planned, model)]
    assert kinds[0] == kinds[1]
    assert {layer.dtype for layer in int8_layers(planned)} == {torch.bfloat16}


def test_what_cannot_be_kept_in_8_bits_is_refused(build: Build) -> None:
    with pytest.raises(UserError, match="'embed_tokens' matches no linear layer"):
        build(in_int8=("embed_tokens",))
    for device in ("cpu", "meta"):
        with pytest.raises(UserError, match=r"lm_head shares its weight with model\.embed_tokens"):
            build(in_int8=("mlp", "lm_head"), tie_word_embeddings=True, device=device)
    assert len(int8_layers(build(in_int8=("mlp", "lm_head")))) == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 2000, "hidden_size": 4096, "intermediate_size": 11008},
        {"hidden_size": 10**6},
        {"hidden_size": 4096, "intermediate_size": 16_000_000},
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_built(build: Build, fields: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"takes .* GiB, this machine has"):
        build(device="cpu", **fields)
