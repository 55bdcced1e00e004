"""The ways a search begins with are transformers' own, and a candidate is what a recipe says."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from galore.trainer.common.errors import UserError
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
