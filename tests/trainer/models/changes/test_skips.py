"""Training with positions that skip ahead: what a model sees of a row, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import decoder
from torch import Tensor

from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.models.changes.skips import let_positions_skip
from galore.trainer.models.isolation import isolate_documents
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.train import PositionSkips
from galore.trainer.step import summed_losses

LONG = PositionSkips(target_length=48, chunks=2)
ROW = torch.tensor([[5, 9, 7, 30, 4, 11, 12, 6], [8, 8, 21, 14, 3, 2, 19, 33]])
SKIPS = torch.tensor([[0, 0, 0, 17, 17, 17, 40, 40], [0, 9, 9, 9, 9, 9, 9, 40]])


def at_their_places(model: Any) -> Tensor:
    """The summed loss of ROW, every token where SKIPS says in a row of 48 whose other places are masked."""
    places = torch.arange(8) + SKIPS
    ids = torch.full((2, 48), 1).scatter(1, places, ROW)
    seen = torch.zeros(2, 48, dtype=torch.long).scatter(1, places, 1)
    own = torch.arange(48).expand(2, -1)
    logits = model(input_ids=ids, attention_mask=seen, position_ids=own, use_cache=False).logits
    kept = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2]))
    return torch.nn.functional.cross_entropy(kept[:, :-1].flatten(0, 1), ROW[:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gptneox", "smollm3", "phi"])  # phi: a head with a bias
def test_a_row_is_what_it_is_in_a_long_one_with_nothing_between(family: str) -> None:
    model = decoder(family).double().eval()
    batch = TokenBatch(ROW, ROW, (0, 1))
    with torch.no_grad():
        found = float(summed_losses(model, replace(batch, skips=SKIPS)).total)
        assert found == pytest.approx(float(at_their_places(model)), rel=1e-6)
        assert abs(found - float(summed_losses(model, batch).total)) > 1e-4


def test_documents_of_a_row_skip_each_for_itself() -> None:
    model = decoder("llama").double().eval()
    alone = 0.0
    for part in (slice(0, 5), slice(5, 8)):
        batch = TokenBatch(ROW[:1, part], ROW[:1, part], (0,), skips=SKIPS[:1, part])
        alone += float(summed_losses(model, batch).total)
    isolate_documents(model)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    batch = TokenBatch.of(ROW[:1].numpy(), ROW[:1].numpy(), (0,), positions.numpy())
    assert float(summed_losses(model, replace(batch, skips=SKIPS[:1])).total) == pytest.approx(alone, rel=1e-10)


@pytest.mark.parametrize("fused", ["true", "false"])
@pytest.mark.parametrize("isolates", ["true", "false"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_skips_go_with_every_other_change_and_a_dry_run_says_the_same(fused: str, isolates: str, dtype: str) -> None:
    settings = ["data.max_length=16", "train.position_skips={target_length: 48}", f"model.dtype={dtype}"]
    settings += [f"train.fused={fused}", f"data.isolate_documents={isolates}"]
    recipe = load_recipe("demo", settings).recipe
    for device in ("cpu", "meta"):
        _, lines = build_model(recipe, 300, device, Path())
        assert "positions: rows of 16 tokens in 2 chunks, spread over 48 positions" in lines
        assert any("SwiGLU" in line for line in lines) == (fused == "true")


def test_what_rows_are_is_said() -> None:
    assert let_positions_skip(decoder("llama"), LONG, 16, False) == [
        "positions: rows of 16 tokens in 2 chunks, spread over 48 positions"
    ]
    single = PositionSkips(target_length=48, chunks=16)
    assert "in single tokens" in let_positions_skip(decoder("llama"), single, 16, False)[0]
    assert let_positions_skip(decoder("llama"), None, 16, False) == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "qwen3-next", "deepseek3", "glm", "gptneox"])
def test_models_that_can_are_taken_whatever_their_first_token_is(family: str) -> None:
    """Every row of the embedding is zero, as that of padding may be, and all is in bfloat16."""
    model = decoder(family).bfloat16()
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    assert let_positions_skip(model, LONG, 16, False)
    assert not any(each._forward_hooks for each in model.modules())


def test_tokens_that_must_be_first_are_refused() -> None:
    model = decoder("llama")
    model.config.rope_start_tokens = 4
    with pytest.raises(UserError, match="rows begin anywhere"):
        let_positions_skip(model, LONG, 16, False)


@pytest.mark.parametrize(
    ("family", "length", "isolates", "what"),
    [
        ("gpt2", 48, False, "no rotary positions"),
        ("mamba", 48, False, "no rotary positions"),
        ("llama", 10**6, False, "sequences of 1000000 tokens do not fit"),
        ("gptj", 48, True, "no rotary positions|told apart by their positions"),
        ("stablelm", 48, True, "told apart by their positions"),
        ("falcon-alibi", 48, False, "pays no heed to rotary positions"),
        ("mistral", 48, False, "every layer of mistral sees 8 tokens back"),
    ],
)
def test_models_that_cannot_are_refused(family: str, length: int, isolates: bool, what: str) -> None:
    model = decoder(family)
    with pytest.raises(UserError, match=what) as error:
        let_positions_skip(model, PositionSkips(target_length=length), 16, isolates)
    assert error.value.where is not None
    assert error.value.where.startswith("train.position_skips")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["{target_length: 64}"], "is no more than data.max_length 64"),
        (["{target_length: 256, chunks: 1}"], "chunks: expected an integer ≥ 2"),
        (["{target_length: 256, chunks: 65}"], "chunks 65 is more than the tokens of a row, data.max_length 64"),
        (["{target_length: 257}"], "exceeds model.max_position_embeddings 256"),
        (["{chunks: 2}"], "the key `target_length` is missing"),
        (["{target_length: 256}", "train.length_stages=[{max_length: 16, steps: 1}]"], "two ways to a greater length"),
        (["{target_length: 256}", "model.architecture=retnet"], "retention counts none"),
        (
            ["{target_length: 256}", "extra_loss.name=distillation", "extra_loss.teacher=x"],
            "would give the teacher positions",
        ),
    ],
)
def test_what_contradicts_is_refused(settings: list[str], what: str) -> None:
    shape = ["data.max_length=64", "model.max_position_embeddings=256", "train.max_steps=10"]
    with pytest.raises(RecipeError, match=what):
        load_recipe("demo", [*shape, f"train.position_skips={settings[0]}", *settings[1:]])
