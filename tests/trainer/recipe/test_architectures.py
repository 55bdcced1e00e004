"""Public networks by name: as many parameters as their published weights, found by name, refused with the nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from galore.trainer.common.errors import UserError
from galore.trainer.fit.remedies import some_blocks
from galore.trainer.models.decoder import build_decoder, public_config
from galore.trainer.parameters import planned_vocabulary
from galore.trainer.recipe.architectures import ARCHITECTURES, refuse_unknown
from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.model import DIMENSIONS, ModelSection


def parameters(name: str, layers: int) -> int:
    architecture = ARCHITECTURES[name]
    config = public_config(replace(architecture, config=architecture.config | {"num_hidden_layers": layers}))
    with torch.device("meta"):
        return sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_has_as_many_parameters_as_are_published(name: str) -> None:
    """Counted with one block and with two, since all blocks are alike."""
    one, two = parameters(name, 1), parameters(name, 2)
    assert one + (ARCHITECTURES[name].layers - 1) * (two - one) == ARCHITECTURES[name].parameters


def test_is_built_whole_with_its_own_positions_and_vocabulary(tmp_path: Path) -> None:
    section = ModelSection(architecture_of="smollm2-135m")
    model = build_decoder(section, 1, device="meta", seed=0, max_length=8192, base_dir=tmp_path)
    assert sum(each.numel() for each in model.parameters()) == ARCHITECTURES["smollm2-135m"].parameters
    assert model.config.eos_token_id is None
    with pytest.raises(UserError, match="8193 tokens do not fit the model's 8192 positions"):
        build_decoder(section, 1, device="meta", seed=0, max_length=8193, base_dir=tmp_path)


def test_rows_that_a_recipe_asks_for_take_the_place_of_its_own(tmp_path: Path) -> None:
    section = ModelSection(architecture_of="smollm2-135m", vocab_size=64)
    model = build_decoder(section, 64, device="meta", seed=0, max_length=8, base_dir=tmp_path)
    assert model.get_input_embeddings().weight.shape == (64, 576)


def test_takes_the_place_of_dimensions_below_it_and_comes_back_from_the_resolved_recipe() -> None:
    loaded = load_recipe("llama-60m", ["model.architecture_of=qwen3-8b"])
    default = ModelSection()
    assert all(getattr(loaded.recipe.model, each) == getattr(default, each) for each in (*DIMENSIONS, "vocab_size"))
    assert planned_vocabulary(loaded) == (151936, [])
    assert some_blocks(loaded.recipe)[-1] == 32, "eighths of its 36 blocks"
    assert recipe_from_resolved(loaded.text, "resolved") == loaded.recipe
    own = load_recipe("demo", ["model.architecture_of=qwen3-8b", "model.hidden_size=64"])
    assert "Without effect beside the others" in own.text


def test_long_sequences_are_measured_by_its_positions() -> None:
    overrides = ["model.architecture_of=llama-3-8b", "data.max_length=8192"]
    assert load_recipe("demo", overrides).recipe.data.max_length == 8192


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("llama2-7b", "did you mean llama-2-7b or"),
        ("Qwen/Qwen3-8B", "did you mean qwen3-8b or"),
        ("7", "known are llama-7b, llama-13b"),
        ("", "known are llama-7b, llama-13b"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        refuse_unknown(name)


def test_a_recipe_says_where_the_unknown_name_stands() -> None:
    with pytest.raises(RecipeError, match="architecture_of: no dimensions are known of 'gpt-4': known are"):
        load_recipe("demo", ["model.architecture_of=gpt-4"])


def test_weights_by_name_and_an_architecture_contradict_in_one_layer() -> None:
    overrides = ["model.architecture_of=llama-3-8b", "model.name_or_path=gpt2"]
    with pytest.raises(RecipeError, match="architecture_of draws weights and name_or_path reads them"):
        load_recipe("demo", overrides)
