"""What transformers 4 looks for is written beside what 5 wrote, and 5 reads the folder as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import DECODERS
from transformers import AutoConfig, LlamaConfig, PreTrainedTokenizerFast

from galore.trainer.trained.olderreaders import add_older_keys


def rewritten(name: str, folder: Path, tokenizer: Path) -> dict[str, Any]:
    kind, dimensions = DECODERS[name]
    config = AutoConfig.for_model(kind, **dimensions)
    config.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tokenizer).save_pretrained(folder)
    before = AutoConfig.from_pretrained(folder)
    add_older_keys(folder)
    after = AutoConfig.from_pretrained(folder)
    ropes = [each.get_text_config().rope_parameters for each in (before, after)]
    assert {key: value for key, value in ropes[1].items() if key != "type"} == ropes[0]
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


@pytest.mark.parametrize(
    ("name", "older"),
    [
        ("llama", {"rope_theta": 10000.0}),
        ("llama-linear", {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("phi", {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        ("gemma3", {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}),
        (
            "phi3-long",
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}},
        ),
        ("qwen3-moe", {"num_experts": 4}),
    ],
)
def test_older_keys_stand_beside(name: str, older: dict[str, Any], tmp_path: Path, chat_tokenizer: Path) -> None:
    values = rewritten(name, tmp_path, chat_tokenizer)
    assert {key: values.get(key) for key in older} == older
    assert "rope_parameters" in values


def test_longrope_of_a_llama_names_its_first_length(tmp_path: Path) -> None:
    long: dict[str, Any] = {"rope_type": "longrope", "factor": 4.0, "long_factor": [2.0] * 4, "short_factor": [1.0] * 4}
    rope = long | {"rope_theta": 10000.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=256, rope_parameters=rope)
    config.save_pretrained(tmp_path)
    add_older_keys(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    older = {key: value for key, value in rope.items() if key not in ("rope_type", "rope_theta")}
    assert values["rope_scaling"] == {"type": "longrope"} | older
    assert (values["original_max_position_embeddings"], values["max_position_embeddings"]) == (64, 256)
    again = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert {key: value for key, value in again.items() if key != "type"} == config.rope_parameters


def test_parts_of_a_model_have_them_too(tmp_path: Path, chat_tokenizer: Path) -> None:
    assert "rope_theta" in rewritten("gemma3-images", tmp_path, chat_tokenizer)["text_config"]


def test_the_tokenizer_has_a_class_that_both_know(tmp_path: Path, chat_tokenizer: Path) -> None:
    rewritten("llama", tmp_path, chat_tokenizer)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert set(values["additional_special_tokens"]) >= {"<|im_start|>", "<|im_end|>"}
    assert not values.keys() & {"extra_special_tokens", "is_local", "local_files_only"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "<|im_start|>user"
    assert tokenizer(text).input_ids == PreTrainedTokenizerFast.from_pretrained(chat_tokenizer)(text).input_ids
    assert "<|im_start|>" in tokenizer.all_special_tokens
