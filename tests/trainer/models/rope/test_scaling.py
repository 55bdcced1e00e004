"""model.rope becomes transformers' rope_parameters: equal frequencies, longest sequences, one error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, LlamaForCausalLM, Phi3Config, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.models.capacity import positions_of
from galore.trainer.models.rope.scaling import pairs, scale_rope
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.rope import RopeSection

LONG = [1.0, 1.5, 2.0, 8.0]
KINDS: dict[str, dict[str, Any]] = {
    "default": {"type": "default"},
    "linear": {"type": "linear", "factor": 4},
    "dynamic": {"type": "dynamic", "factor": 4},
    "yarn": {"type": "yarn", "factor": 4, "beta_fast": 8},
    "longrope": {"type": "longrope", "factor": 4, "long_factor": LONG},
    "llama3": {"type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4},
}
THETA, ORIGINAL, FACTOR, HEAD = 10000.0, 16, 4.0, 8


def published(kind: str, length: int) -> tuple[list[float], float]:
    """Frequencies and attention factor as the papers state them, in float64, for a head of 8 trained at 16 tokens."""
    plain = [THETA ** (-2 * i / HEAD) for i in range(HEAD // 2)]
    if kind == "linear":
        return [each / FACTOR for each in plain], 1.0
    if kind == "dynamic" and length > ORIGINAL:
        base = THETA * (FACTOR * length / ORIGINAL - (FACTOR - 1)) ** (HEAD / (HEAD - 2))
        return [base ** (-2 * i / HEAD) for i in range(HEAD // 2)], 1.0
    if kind == "longrope":
        factors = LONG if length > ORIGINAL else [1.0] * 4
        scale = math.sqrt(1 + math.log(FACTOR) / math.log(ORIGINAL))
        return [each / by for each, by in zip(plain, factors, strict=True)], scale
    if kind == "yarn":
        low, high = (HEAD * math.log(ORIGINAL / (turns * 2 * math.pi)) / (2 * math.log(THETA)) for turns in (8, 1))
        low, high = max(math.floor(low), 0), min(math.ceil(high), HEAD - 1)
        ramp = [min(1.0, max(0.0, (i - low) / ((high - low) or 0.001))) for i in range(HEAD // 2)]
        mixed = [each / FACTOR * r + each * (1 - r) for each, r in zip(plain, ramp, strict=True)]
        return mixed, 0.1 * math.log(FACTOR) + 1
    if kind == "llama3":
        smooth = [(ORIGINAL * each / (2 * math.pi) - 1) / (4 - 1) for each in plain]
        share = [min(1.0, max(0.0, s)) for s in smooth]
        return [(1 - s) * each / FACTOR + s * each for each, s in zip(plain, share, strict=True)], 1.0
    return plain, 1.0


@pytest.mark.parametrize("length", [16, 64])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_cos_and_sin_are_those_of_the_paper_and_of_transformers(
    build: Callable[..., PreTrainedModel], kind: str, length: int
) -> None:
    room = ORIGINAL if kind == "dynamic" else 64
    model: Any = build(rope=KINDS[kind], max_position_embeddings=room, max_length=length)
    frequencies, scale = published(kind, length)
    positions = torch.arange(length)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float64), positions)
    angles = positions[0, :, None].double() * torch.tensor(frequencies * 2, dtype=torch.float64)
    torch.testing.assert_close(cos[0], scale * angles.cos(), rtol=0, atol=2e-5)
    torch.testing.assert_close(sin[0], scale * angles.sin(), rtol=0, atol=2e-5)
    if kind != "default":
        theirs, factor = ROPE_INIT_FUNCTIONS[kind](model.config, "cpu", seq_len=length)
        again = positions[0, :, None].float() * torch.cat((theirs, theirs))
        assert torch.equal(cos[0], (again.cos() * factor).double())
    assert positions_of(model.config) == 64


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_configuration_alone_builds_the_same_in_transformers(
    build: Callable[..., PreTrainedModel], kind: str, tmp_path: Path
) -> None:
    ours = build(rope=KINDS[kind]).eval()
    ours.save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 100, (2, 48))
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_default_is_what_no_section_is(build: Callable[..., PreTrainedModel]) -> None:
    assert build().config.rope_parameters == build(rope={"type": "default"}).config.rope_parameters


def scaled(config: Any, base_dir: Path = Path(), **rope: Any) -> Any:
    scale_rope(config, RopeSection(**rope), base_dir, built=False)
    return config


@pytest.mark.parametrize("kind", ["linear", "yarn", "longrope", "llama3"])
def test_a_model_by_name_takes_factor_times_its_length(kind: str) -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=32)
    rope = scaled(config, **KINDS[kind]).rope_parameters
    assert (config.max_position_embeddings, rope["rope_type"], rope["rope_theta"]) == (128, kind, 10000.0)
    assert rope.get("original_max_position_embeddings", 32) == 32
    assert scaled(config, **KINDS["yarn"], original_max_position_embeddings=8).max_position_embeddings == 32


def test_dynamic_keeps_the_length_it_was_trained_at() -> None:
    config = scaled(LlamaConfig(max_position_embeddings=32), type="dynamic", factor=4)
    assert (config.max_position_embeddings, positions_of(config)) == (32, 128)


def test_a_scaled_model_is_scaled_from_its_first_length() -> None:
    config = scaled(LlamaConfig(max_position_embeddings=32), type="yarn", factor=4)
    assert scaled(config, type="yarn", factor=8).max_position_embeddings == 256


def test_what_a_model_rotates_otherwise_stays() -> None:
    phi = Phi3Config(hidden_size=32, num_attention_heads=2, partial_rotary_factor=0.5, pad_token_id=0)
    assert pairs(phi) == 4
    assert scaled(phi, type="linear", factor=2).rope_parameters["partial_rotary_factor"] == 0.5
    assert scaled(phi, type="linear", factor=2, rope_theta=500).rope_parameters["rope_theta"] == 500
    gemma = scaled(Gemma3TextConfig(), type="linear", factor=8).rope_parameters
    assert gemma["full_attention"]["factor"] == 8
    assert gemma["sliding_attention"]["rope_type"] == "default"


def test_a_model_without_rotary_positions_is_refused() -> None:
    with pytest.raises(UserError, match="no rotary positions"):
        scaled(GPT2Config(), type="linear", factor=2)


def test_another_number_of_factors_is_refused_with_both() -> None:
    with pytest.raises(UserError, match="has 3 numbers, and the heads of the model rotate 4"):
        scaled(LlamaConfig(hidden_size=32, num_attention_heads=4), type="longrope", factor=2, long_factor=[1, 2, 3])


def test_a_file_holds_factors_which_keys_of_the_recipe_go_before(tmp_path: Path) -> None:
    values = {"type": "longrope", "factor": 4, "long_factor": LONG, "original_max_position_embeddings": 16, "search": 1}
    (tmp_path / "rope.json").write_text(json.dumps(values))
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=16)
    rope = scaled(config, tmp_path, type="longrope", factors="rope.json", attention_factor=1.5).rope_parameters
    assert (rope["long_factor"], rope["attention_factor"], rope["short_factor"]) == (LONG, 1.5, [1.0] * 4)
    assert config.max_position_embeddings == 64


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"factor": 2}', '{"factor": 2, "long_factor": ["a"]}', '{"factor": 0, "long_factor": [1]}']
)
def test_a_file_without_factors_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "rope.json").write_text(text)
    with pytest.raises(UserError) as error:
        scaled(LlamaConfig(), tmp_path, type="longrope", factors="rope.json")
    assert str(tmp_path / "rope.json") in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rope-search"):
        scaled(LlamaConfig(), tmp_path, type="longrope", factors="absent.json")


def test_a_published_network_is_scaled_from_its_own_length_as_its_files_are() -> None:
    settings = ["model.architecture_of=smollm2-135m", "model.rope={type: yarn, factor: 4}"]
    model, _ = build_model(load_recipe("demo", settings).recipe, 49_152, "meta", Path())
    assert model.config.max_position_embeddings == 4 * 8192
    assert model.config.rope_parameters["original_max_position_embeddings"] == 8192
