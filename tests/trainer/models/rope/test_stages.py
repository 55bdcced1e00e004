"""Lengths that grow in a run: a function of the step, on the same tokens, with the positions of each length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet
from transformers import PreTrainedModel

from galore.trainer.common.errors import Ended, UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.rope.stages import in_stage, in_words, stages_of
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.run import run_training

Build = Callable[..., PreTrainedModel]
SHAPE = ["data.max_length=64", "model.max_position_embeddings=64", "train.max_steps=10"]
STAGES = "train.length_stages=[{max_length: 16, steps: 2}, {max_length: 32, steps: 3}]"


def recipe(*settings: str) -> Recipe:
    return load_recipe("demo", [*SHAPE, *settings]).recipe


@pytest.mark.parametrize(("step", "length"), [(0, 16), (1, 16), (2, 32), (4, 32), (5, 64), (9, 64)])
def test_the_length_is_a_function_of_the_step(build: Build, step: int, length: int) -> None:
    rope = "model.rope={type: yarn, factor: 4}"
    model: Any = build(rope={"type": "yarn", "factor": 4})
    stages = stages_of(recipe(rope, STAGES), model.config, Path())
    ids = torch.arange(128).view(2, 64)
    before = model.model.rotary_emb
    with in_stage(stages, model, TokenBatch(ids, ids, (7, 9), None), step) as (batch, pieces):
        assert isinstance(batch, TokenBatch)
        assert batch.input_ids.shape == (128 // length, length)
        assert torch.equal(batch.input_ids.flatten(), ids.flatten())
        assert (len(batch), batch.tokens, pieces) == (128 // length, 128, 64 // length)
        factor = max(1.0, length / 16)
        room = round(16 * factor)
        own: Any = build(rope={"type": "yarn", "factor": factor}, max_position_embeddings=room, max_length=room)
        assert torch.equal(model.model.rotary_emb.inv_freq, own.model.rotary_emb.inv_freq)
        assert model.model.rotary_emb.attention_scaling == own.model.rotary_emb.attention_scaling
    assert model.model.rotary_emb is before


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_the_factor_of_a_stage_is_that_of_its_length(build: Build, kind: str) -> None:
    rope = {"type": kind, "factor": 4}
    room = 16 if kind == "dynamic" else 64
    model: Any = build(rope=rope, max_position_embeddings=room)
    settings = [f"model.rope={{type: {kind}, factor: 4}}", f"model.max_position_embeddings={room}", STAGES]
    config: Any = stages_of(recipe(*settings), model.config, Path())[1].config
    assert config.rope_parameters.get("factor") == (4 if kind == "dynamic" else 2)
    assert config.max_position_embeddings == (16 if kind == "dynamic" else 32)


def test_a_stage_may_have_positions_of_its_own(build: Build) -> None:
    own = "train.length_stages=[{max_length: 32, steps: 2, rope: {type: linear, factor: 3}}]"
    model = build(rope={"type": "yarn", "factor": 4})
    config: Any = stages_of(recipe("model.rope={type: yarn, factor: 4}", own), model.config, Path())[0].config
    assert config.rope_parameters["rope_type"] == "linear"
    assert config.rope_parameters["factor"] == 3


def test_lengths_alone_leave_the_positions(build: Build) -> None:
    model = build()
    stages = stages_of(recipe(STAGES), model.config, Path())
    assert [each.config for each in stages] == [None, None]
    assert in_words(stages, 64) == "16 tokens for 2 steps, 32 tokens for 3 steps, then 64"


def test_a_model_that_is_scaled_already_rotates_as_of_the_length_of_a_stage(build: Build) -> None:
    model: Any = build(rope={"type": "longrope", "factor": 4, "long_factor": [4, 4, 4, 4]})
    stages = stages_of(recipe(STAGES), model.config, Path())
    ids = torch.arange(128).view(2, 64)
    used = dict[int, Any]()
    for step in (0, 2, 5):
        with in_stage(stages, model, TokenBatch(ids, ids, (7, 9), None), step):
            used[step] = model.model.rotary_emb.inv_freq
    assert torch.equal(used[2], used[0] / 4)
    assert torch.equal(used[5], used[0] / 4)


def test_rows_that_are_spread_rotate_as_of_the_positions_that_they_have(build: Build) -> None:
    model: Any = build(rope={"type": "longrope", "factor": 4, "long_factor": [4, 4, 4, 4]}, max_length=16)
    ids, before = torch.arange(32).view(2, 16), model.model.rotary_emb.inv_freq
    with in_stage([], model, TokenBatch(ids, ids, (7, 9), None), 0, 64):
        assert torch.equal(model.model.rotary_emb.inv_freq, before / 4)
    assert model.model.rotary_emb.inv_freq is before


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("[{max_length: 15, steps: 2}]", "no multiple of max_length 15"),
        ("[{max_length: 16, steps: 10}]", "takes 10 steps of train.max_steps 10"),
        ("[{max_length: 32, steps: 1}, {max_length: 16, steps: 1}]", "grows up to data.max_length 64, and has 32, 16"),
        ("[{max_length: 64, steps: 1}]", "grows up to"),
        ("[{max_length: 16}]", "the key `steps` is missing"),
        ("[{max_length: 16, steps: 1, rope: {type: yarn}}]", r"0\]\.rope: type: yarn needs factor"),
        ("[{max_length: 16, steps: 1, rope: {type: yarn, factor: 0}}]", r"0\]\.rope\.factor: expected a number ≥ 1"),
        (
            "[{max_length: 16, steps: 1, rope: {type: yarn, factor: true}}]",
            "rope.factor: expected a number ≥ 1 or null, got true",
        ),
        ("[{max_length: 16, steps: 1, rope: {type: yarn, factr: 2}}]", "there is no key `factr`"),
        ("3", "expected a list of mappings"),
    ],
)
def test_wrong_stages_are_refused(settings: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe(f"train.length_stages={settings}")


RECIPE = """
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, dtype: float32,
        max_position_embeddings: 64, rope: {type: yarn, factor: 4}}
data: {path: corpus.txt, txt_document: line, max_length: 64, tokenizer_vocab_size: 300, validation_fraction: 0}
optim: {rank: 4, update_proj_gap: 2}
train: {max_steps: 4, global_batch_size: 2, micro_batch_size: 1, save_steps: 1, device: cpu,
        length_stages: [{max_length: 16, steps: 1}, {max_length: 32, steps: 2}]}
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That recipe beside its corpus."""
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    numbers = "\n".join(f"{number} and {number * number} are numbers" for number in range(400))
    (tmp_path / "corpus.txt").write_text(numbers)
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE)
    return file


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_with_the_factors_that_its_stages_had(written: Path, tmp_path: Path) -> None:
    factors, out = tmp_path / "factors.json", tmp_path / "run"
    rope = {"factor": 2.0, "long_factor": [1.0] * 4, "original_max_position_embeddings": 16}
    factors.write_text(json.dumps(rope))
    stages = f"train.length_stages=[{{max_length: 32, steps: 3, rope: {{type: longrope, factors: {factors}}}}}]"
    settings = [stages, "optim.lr_scheduler_type=constant", "optim.warmup_steps=0"]
    run_training(load_recipe(str(written), settings), out, False, Quiet())
    run_training(load_recipe(str(written), [*settings, "train.max_steps=5"]), out, True, Quiet())
    factors.write_text(json.dumps(rope | {"long_factor": [9.0] * 4}))
    with pytest.raises(UserError, match=r"length_stages\[0\].*long_factor: \[1.0.* → \[9.0") as caught:
        run_training(load_recipe(str(written), [*settings, "train.max_steps=6"]), out, True, Quiet())
    assert "restore the file" in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["train.length_stages=[{max_length: 16, steps: 500}]"], r"takes 500 steps of the \d+ that .*num_train_epochs"),
        (
            ["train.length_stages=[]", "optim.method=lora", "optim.adapter=relora", "optim.relora_gap=5000"],
            r"relora_gap: 5000 never restarts in \d+ steps",
        ),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_what_outlasts_a_run_of_epochs_is_refused(
    written: Path, tmp_path: Path, settings: list[str], what: str
) -> None:
    loaded = load_recipe(str(written), ["train.max_steps=null", "train.num_train_epochs=0.5", *settings])
    with pytest.raises(UserError, match=what):
        run_training(loaded, tmp_path / "run", False, Quiet())


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_stops_between_stages_goes_on_to_the_same_bits(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from galore.trainer import loop

    loaded, steps = load_recipe(str(written)), list[int]()
    run_training(loaded, tmp_path / "whole", False, Quiet())
    real = loop.train_step

    def fragile(*arguments: Any, **options: Any) -> Any:
        steps.append(arguments[2].input_ids.shape[1])
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", fragile)
    with pytest.raises((KeyboardInterrupt, Ended)):
        run_training(loaded, tmp_path / "parts", False, Quiet())
    run_training(loaded, tmp_path / "parts", True, Quiet())
    assert steps == [16, 32, 32, 32, 64]
    ends = [tmp_path / name / "checkpoints/step-00000004/model.safetensors" for name in ("whole", "parts")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
