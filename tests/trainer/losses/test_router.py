"""The auxiliary loss of a mixture of experts: transformers' own, of each micro-batch, and only where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from torch import Tensor

from galore.trainer.common.errors import UserError
from galore.trainer.data.batch import Objective
from galore.trainer.data.rows.tokenbatch import TokenBatch
from galore.trainer.data.tokens.tokenizer import trained_tokenizer
from galore.trainer.fit.verify import verify
from galore.trainer.losses.router import RouterLoss, build_router, is_configured, router_note
from galore.trainer.models.checkpointing import recompute_blocks
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.record.metrics import SILENT
from galore.trainer.run import run_training
from galore.trainer.step import Counts, accumulate

pytestmark = pytest.mark.usefixtures("undrawn")
ROWS = 4


def tokens() -> TokenBatch:
    ids = torch.randint(4, architectures.VOCABULARY, (ROWS, 12), generator=torch.Generator().manual_seed(3))
    return TokenBatch(ids, ids, tuple(range(ROWS)))


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("rows", [ROWS, 1])
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe"])
def test_loss_and_gradients_are_those_of_transformers(name: str, rows: int, recomputed: bool) -> None:
    batch, coefficient = tokens(), 0.3
    model = architectures.decoder(name).double()
    model.set_experts_implementation("eager")  # the others know no float64
    model.router_aux_loss_coef = coefficient
    theirs, balance = 0.0, 0.0
    for start in range(0, ROWS, rows):
        ids = batch.input_ids[start : start + rows]
        out = model(ids, labels=ids, output_router_logits=True)
        (out.loss * rows / ROWS).backward()
        theirs, balance = theirs + float(out.loss) * rows / ROWS, balance + float(out.aux_loss) * rows / ROWS
    expected = gradients(model)
    model.zero_grad()
    if recomputed:
        recompute_blocks(model, True, False)
    objective = Objective(router=RouterLoss(model, coefficient))
    found = accumulate(model, batch, rows, Counts.of(batch, objective), objective)
    assert found.router == pytest.approx(balance, rel=1e-6)
    assert found.loss + coefficient * found.router == pytest.approx(theirs, rel=1e-6)
    torch.testing.assert_close(
        gradients(model), expected, rtol=1e-5, atol=1e-7
    )  # that loss is fp32 arithmetic there, too


def asking(overrides: dict[str, Any], **data: Any) -> Recipe:
    sections = {"model": overrides, "data": {"path": "none.txt", "source": "local"} | data, "train": {"max_steps": 1}}
    return Recipe.model_validate(sections)


@pytest.mark.parametrize(("asked", "coefficient"), [(None, 0.001), (0.5, 0.5), (0, None)])
def test_null_is_what_the_configuration_says(asked: float | None, coefficient: float | None) -> None:
    model, recipe = architectures.decoder("mixtral"), asking({"router_aux_loss": asked})  # asks for router logits
    found = build_router(recipe, model)
    assert (found.coefficient if found else None) == coefficient
    (line,) = router_note(recipe, model)
    assert ("without its auxiliary loss" in line) == (asked == 0)
    assert build_router(asking({}), architectures.decoder("qwen2-moe")) is None  # has experts, asks for nothing
    assert router_note(asking({}), architectures.decoder("llama")) == []


@pytest.mark.parametrize("name", ["llama", "deepseek3"])
def test_what_has_no_such_loss_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"0\.1: the model has no such loss") as raised:
        build_router(asking({"router_aux_loss": 0.1}), architectures.decoder(name))
    assert raised.value.where == "model.router_aux_loss"
    assert build_router(asking({"router_aux_loss": 0}), architectures.decoder(name)) is None


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routed")
    architectures.decoder("mixtral").save_pretrained(folder / "model")
    trained_tokenizer(["four five six"] * 9, 259, folder / "tokenizer", lambda *_: None)
    (folder / "words.txt").write_text("\n\n".join(f"just some words {n} of text, and more" for n in range(200)))
    (folder / "recipe.yaml").write_text("""
model: {name_or_path: model, random_init: true, dtype: float32}
data: {path: words.txt, tokenizer: tokenizer, max_length: 16, validation_fraction: 0.1, cache_dir: cache}
optim: {method: galore, target_modules: [self_attn], rank: 8, update_proj_gap: 2, learning_rate: 0.01}
train: {max_steps: 4, global_batch_size: 4, micro_batch_size: 2, save_steps: 2, num_threads: 1, device: cpu}
eval: {eval_steps: 4, sample_prompt: null}
""")
    return folder / "recipe.yaml"


def execute(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> list[dict[str, Any]]:
    run_training(load_recipe(str(recipe), overrides), out, resume, SILENT)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_reports_it_of_steps_alone_and_goes_on_with_it(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    rows = execute(recipe, tmp_path / "run")
    steps = [row["router_loss"] for row in rows if row["kind"] == "train"]
    assert len(steps) == 4
    assert all(1 < each < 4 for each in steps)  # even is the number of choices, 2; most uneven that of experts
    assert not any("router_loss" in row for row in rows if row["kind"] == "eval")
    with breaking_off(3):
        execute(recipe, tmp_path / "broken")
    assert is_configured(load_recipe(str(recipe)))
    with pytest.raises(UserError, match=r"something else than this run: train\.micro_batch_size: 2 → 4"):
        execute(recipe, tmp_path / "broken", "train.micro_batch_size=4", resume=True)
    again = execute(recipe, tmp_path / "broken", resume=True)
    assert [row["router_loss"] for row in again if row["kind"] == "train"] == steps
    none = execute(recipe, tmp_path / "none", "model.router_aux_loss=0")
    assert not any("router_loss" in row for row in none)
    assert none[-2]["loss_nats"] != rows[-2]["loss_nats"]


def test_a_run_from_before_goes_on_without_it(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    """Its file has no such key."""
    with breaking_off(3):
        execute(recipe, tmp_path / "old", "model.router_aux_loss=0")
    text = (tmp_path / "old/recipe.yaml").read_text()
    kept = [line for line in text.splitlines(keepends=True) if "router_aux_loss" not in line]
    (tmp_path / "old/recipe.yaml").write_text("".join(kept))
    rows = execute(recipe, tmp_path / "old", resume=True)
    assert not any("router_loss" in row for row in rows)


def test_memory_is_predicted_with_it(recipe: Path) -> None:
    loaded = load_recipe(str(recipe), ["model.router_aux_loss=0.1", "model.dtype=bfloat16"])
    found = verify(loaded)
    assert abs(found.predicted - found.measured) < 0.005 * found.measured
    assert dry_run(loaded)
