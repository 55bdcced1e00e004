"""Rotary modules set for a while or held at a length, and first tokens whose positions stay unscaled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from galore.trainer.models.pretrained import load_pretrained, read_config
from galore.trainer.models.rope.rotary import StartLeftAlone, follows_length, hold_length, rotating
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.recipe.schema.rope import RopeSection

Build = Callable[..., PreTrainedModel]
IDS = torch.arange(48)[None]
LONG = {"type": "longrope", "factor": 4, "long_factor": [1, 2, 3, 4]}


def test_a_model_rotates_otherwise_for_a_while(build: Build) -> None:
    plain, other = build().eval(), build(rope={"type": "yarn", "factor": 4}).eval()
    before = plain(IDS).logits
    with rotating(plain, other.config):
        assert torch.equal(plain(IDS).logits, other(IDS).logits)
    assert torch.equal(plain(IDS).logits, before)
    assert not torch.equal(before, other(IDS).logits)


def test_the_first_tokens_are_as_if_nothing_was_scaled(build: Build) -> None:
    plain, scaled = build(), build(rope=LONG)
    model: Any = build(rope=LONG | {"start_tokens": 5})
    rotary = [each.model.rotary_emb(torch.zeros(1), IDS) for each in (plain, scaled, model)]  # type: ignore[operator]
    for one, other, both in zip(*rotary, strict=True):
        assert torch.equal(both[:, :5], one[:, :5])
        assert torch.equal(both[:, 5:], other[:, 5:])


def test_start_tokens_are_read_back(build: Build, tmp_path: Path) -> None:
    model = build(rope=LONG | {"start_tokens": 5}).eval()
    model.save_pretrained(tmp_path)
    config = read_config(str(tmp_path), None)
    again = load_pretrained(str(tmp_path), config, revision=None, dtype=torch.float32, attn_implementation=None).eval()
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    none = copy.deepcopy(config)
    scale_rope(none, RopeSection(**LONG), Path(), built=True)
    none.rope_start_tokens = 0
    with rotating(again, none):
        assert not any(isinstance(module, StartLeftAlone) for module in again.modules())
        assert not torch.equal(model(IDS).logits, again(IDS).logits)


DYNAMIC = {"type": "dynamic", "factor": 4}
FOLLOWING: list[dict[str, Any]] = [DYNAMIC, LONG, LONG | {"start_tokens": 5}]


def of_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights, the rotary modules as transformers makes them."""
    again = copy.deepcopy(model)
    with rotating(again, model.config):
        free: Any = again.model.rotary_emb
    again.model.rotary_emb = free
    return again


def logits(model: PreTrainedModel, ids: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids, use_cache=False, **more).logits
    return found


@pytest.mark.parametrize("rope", FOLLOWING, ids=str)
@pytest.mark.parametrize("length", [4, 16, 17, 48])
def test_a_model_rotates_as_transformers_does_at_the_length_that_it_is_held_at(
    build: Build, rope: dict[str, Any], length: int
) -> None:
    model = build(rope=rope, max_position_embeddings=16 if rope is DYNAMIC else 64, max_length=length).eval()
    assert torch.equal(logits(model, IDS[:, :length]), logits(of_transformers(model), IDS[:, :length]))


@pytest.mark.parametrize("rope", FOLLOWING, ids=str)
def test_a_row_is_scored_whatever_stands_beside_and_before_it(build: Build, rope: dict[str, Any]) -> None:
    room = 16 if rope is DYNAMIC else 64
    model = build(rope=rope, max_position_embeddings=room, initializer_range=0.3).eval()
    short = IDS[:, :8]
    before = logits(model, short)
    long = logits(model, IDS)
    assert torch.equal(logits(model, short), before)
    beside = logits(model, torch.cat([IDS, IDS]), position_ids=torch.cat([IDS, IDS % 8]))
    assert torch.allclose(beside[1, :8], before[0], atol=1e-5)
    assert torch.allclose(beside[0], long[0], atol=1e-5)
    assert not torch.allclose(before, logits(of_transformers(model), short), atol=1e-3)


def test_a_length_is_of_a_while_too_and_of_no_other_type(build: Build) -> None:
    model: Any = build(rope=LONG, initializer_range=0.3).eval()
    before, module = logits(model, IDS[:, :8]), model.model.rotary_emb
    with rotating(model, length=16):
        assert not torch.allclose(logits(model, IDS[:, :8]), before, atol=1e-3)
    assert model.model.rotary_emb is module
    yarn: Any = build(rope={"type": "yarn", "factor": 4})
    module = yarn.model.rotary_emb
    hold_length(yarn, 16)
    with rotating(yarn, length=16):
        assert yarn.model.rotary_emb is module


def test_each_kind_of_layer_is_held() -> None:
    scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    config = Gemma3TextConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=16, layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": scaled},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).eval()
    assert follows_length(config)
    natural = logits(copy.deepcopy(model), IDS)
    hold_length(model, 48)
    before = logits(model, IDS[:, :8])
    assert torch.equal(logits(model, IDS), natural)
    assert torch.equal(logits(model, IDS[:, :8]), before)


@pytest.mark.parametrize("rope", FOLLOWING, ids=str)
def test_a_model_without_memory_is_held(build: Build, rope: dict[str, Any]) -> None:
    model: Any = build(device="meta", rope=rope, max_position_embeddings=16 if rope is DYNAMIC else 64)
    cos, sin = model.model.rotary_emb(torch.zeros(1, device="meta"), IDS.to("meta"))
    assert cos.is_meta
    assert cos.shape == sin.shape == (1, 48, 8)
