"""The ways a search begins with are transformers' own, and a candidate is what a recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from galore.trainer.common.errors import UserError
from galore.trainer.models.rope.scaling import scale_rope
from galore.trainer.models.rope.stages import stages_of
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.rope import RopeSection
from galore.trainer.trained.longcontext.problem import Problem


def config(**rope: object) -> LlamaConfig:
    parameters = {"rope_type": "default", "rope_theta": 10000.0} | rope
    return LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=64, rope_parameters=parameters)


def test_yarn_as_factors_has_yarns_frequencies() -> None:
    problem = Problem.of(config(), 512)
    yarn = problem.config(problem.usual()["yarn"])
    wanted, attention = ROPE_INIT_FUNCTIONS["yarn"](yarn)
    first = problem.first()[0]
    ours, ours_attention = ROPE_INIT_FUNCTIONS["longrope"](problem.config(problem.section(first)), seq_len=512)
    torch.testing.assert_close(ours, wanted, rtol=5e-3, atol=0)  # factors have two decimals
    assert ours_attention == pytest.approx(attention, abs=1e-4)
    assert (first.factors[0], first.factors[-1], problem.factor) == (1.0, 8.0, 8.0)
    assert problem.config(problem.usual()["none"]).max_position_embeddings == 512


def test_short_factors_are_of_a_model_with_long_ones() -> None:
    with pytest.raises(UserError, match="trained at 64 tokens, and 64 are no more"):
        Problem.of(config(), 64)
    long: dict[str, object] = {"rope_type": "longrope", "factor": 4.0, "long_factor": [1.0, 2.0] + [4.0] * 6}
    tuned = config(**long, short_factor=[1.0] * 8, original_max_position_embeddings=16, attention_factor=1.25)
    problem = Problem.of(tuned, 16)
    assert problem.short
    section = problem.section(problem.first()[2])
    assert section.long_factor == section.short_factor == long["long_factor"]
    assert section.attention_factor == 1.25
    assert [*problem.usual()] == [*problem.usual_factors()] == ["as it is"]
    assert problem.config(section).max_position_embeddings == 64


def test_short_factors_leave_the_longest_sequence_of_a_model_that_names_no_factor() -> None:
    long: dict[str, object] = {"rope_type": "longrope", "long_factor": [4.0] * 8, "short_factor": [1.0] * 8}
    tuned = config(**long, original_max_position_embeddings=16)
    problem = Problem.of(tuned, 16)
    assert (problem.factor, problem.original) == (4.0, 16)
    changed = problem.config(problem.section(problem.first()[0]))
    assert changed.max_position_embeddings == 64
    for length in (16, 64):
        theirs, ours = (ROPE_INIT_FUNCTIONS["longrope"](each, seq_len=length) for each in (tuned, changed))
        assert torch.equal(ours[0], theirs[0])
        assert ours[1] == pytest.approx(theirs[1])


@pytest.mark.parametrize(
    "own",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        {"rope_type": "dynamic", "factor": 2.0},
        {},
    ],
)
def test_the_length_of_training_is_one_whoever_asks(own: dict[str, object]) -> None:
    trained = 32 if own.get("rope_type") in ("linear", "yarn") else 64
    assert Problem.of(config(**own), 256).original == trained
    scaled = config(**own)
    scale_rope(scaled, RopeSection(type="yarn", factor=4), Path(), built=False)
    assert scaled.rope_parameters["original_max_position_embeddings"] == trained
    assert scaled.max_position_embeddings == 4 * trained
    stage = ["train.length_stages=[{max_length: 128, steps: 1, rope: {type: yarn, factor: 2}}]", "train.max_steps=9"]
    recipe = load_recipe("demo", ["data.max_length=256", "model.max_position_embeddings=256", *stage]).recipe
    of_stage = stages_of(recipe, config(**own), Path())[0].config
    assert of_stage is not None
    assert of_stage.rope_parameters["original_max_position_embeddings"] == trained
