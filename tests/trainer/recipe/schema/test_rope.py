"""model.rope: each type takes its own keys, and every wrong value is one error that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.parse.problems import RecipeError


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("yarn", "expected a mapping such as"),
        ("[1]", "expected a mapping such as"),
        ("{}", "the key `type` is missing"),
        ("{type: yaarn, factor: 8}", "expected one of default, linear, dynamic, yarn, longrope, llama3, got 'yaarn'"),
        ("{type: yarn}", "type: yarn needs factor, such as factor: 8"),
        ("{type: yarn, factr: 8}", "there is no key `factr`\n    → write factor"),
        ("{type: linear, factor: 0.5}", r"model.rope.factor: expected a number ≥ 1 or null, got 0.5"),
        ("{type: linear, factor: true}", "model.rope.factor: expected a number ≥ 1 or null, got true"),
        ("{type: linear, factor: 1e400}", "got Infinity"),
        ("{type: linear, factor: 2, beta_fast: 3}", "beta_fast is not for type: linear, which takes factor"),
        ("{type: yarn, factor: 2, beta_fast: 1, beta_slow: 2}", "beta_fast 1 must not be below beta_slow 2"),
        ("{type: yarn, factor: 2, mscale: 1}", "mscale and mscale_all_dim come together"),
        ("{type: llama3, factor: 2}", "needs low_freq_factor and high_freq_factor"),
        ("{type: llama3, factor: 2, low_freq_factor: 4, high_freq_factor: 4}", "high_freq_factor 4 must exceed"),
        ("{type: longrope}", "needs one of factors"),
        ("{type: longrope, factors: a, long_factor: [1]}", "only one of these"),
        ("{type: longrope, long_factor: [1]}", "long_factor needs factor"),
        ("{type: longrope, factor: 2, long_factor: [1, -2]}", "for each item a number > 0, got -2"),
        ("{type: longrope, factor: 2, long_factor: [1, 2], short_factor: [1]}", "short_factor has 1 numbers"),
        ("{type: longrope, factor: 2, long_factor: [1], start_tokens: -1}", "start_tokens: expected an integer ≥ 0"),
    ],
)
def test_a_wrong_value_is_one_error(value: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what) as error:
        load_recipe("demo", [f"model.rope={value}"])
    assert len(error.value.problems) == 1


def test_a_key_of_a_mapping_is_written_with_it() -> None:
    with pytest.raises(RecipeError, match=r"write the whole mapping: model.rope=\{…, factor: 8\}"):
        load_recipe("demo", ["model.rope.factor=8"])
    with pytest.raises(RecipeError, match=r"model.rope: \{type: yarn, factor: 8\}"):
        load_recipe("demo", ["model.rope_scaling=linear"])


def test_a_resolved_recipe_reads_back_and_says_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("extends: demo\nmodel: {rope: {type: longrope, factors: found/rope.json}}\n")
    loaded = load_recipe(str(file))
    assert loaded.recipe.model.rope is not None
    assert loaded.recipe.model.rope.factors == str(tmp_path / "found/rope.json")
    assert recipe_from_resolved(loaded.text, "x") == loaded.recipe
    assert "start_tokens" not in loaded.text


def test_the_longest_sequence_of_a_dynamic_model_is_factor_times_its_length() -> None:
    dynamic = ["model.rope={type: dynamic, factor: 4}", "model.max_position_embeddings=128"]
    assert load_recipe("demo", [*dynamic, "data.max_length=512"]).recipe.model.longest == 512
    with pytest.raises(RecipeError, match=r"513 exceeds model\.max_position_embeddings 512"):
        load_recipe("demo", [*dynamic, "data.max_length=513"])
