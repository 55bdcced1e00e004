"""A run on codes between texts: its losses by modality, its weights, what it exports, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.tokenizer import trained_tokenizer
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.metrics import SILENT
from galore.trainer.record.rundir import RunDir
from galore.trainer.run import run_training
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modal")
    trained_tokenizer(["four five six"] * 9, 270, folder / "tokenizer", lambda *_: None)
    pairs = [{"parts": [{"text": f"number {n} "}, {"image": [n % 6, 5 - n % 6]}]} for n in range(300)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    (folder / "words.txt").write_text("\n\n".join(f"just some words {n} of text" for n in range(300)))
    (folder / "recipe.yaml").write_text("""
model: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, dtype: float32,
        new_tokens: {image: 6}}
data:
  source: local
  sources: [{path: words.txt, weight: 1}, {path: pairs.jsonl, tokens_field: parts, weight: 3}]
  tokenizer: tokenizer
  max_length: 32
  validation_fraction: 0.1
  cache_dir: cache
optim: {method: galore, rank: 8, update_proj_gap: 2, learning_rate: 0.01, lr_scheduler_type: constant}
train: {max_steps: 4, global_batch_size: 8, micro_batch_size: 4, save_steps: 2, num_threads: 1, device: cpu}
eval: {eval_steps: 4}
""")
    return folder / "recipe.yaml"


def execute(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> list[dict[str, Any]]:
    run_training(load_recipe(str(recipe), overrides), out, resume, SILENT)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> list[bytes]:
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return [path.read_bytes() for path in sorted(last.glob("*.safetensors"))]


def test_losses_by_modality_resumed_scored_and_exported(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    rows = execute(recipe, tmp_path / "run", "train.loss_weights={image: 1.0, text: 1}")
    steps = [row for row in rows if row["kind"] == "train"]
    assert all(set(row["loss_nats_by_modality"]) == {"text", "image"} for row in steps)
    last = [row for row in rows if row["kind"] == "eval"][-1]
    assert set(last["perplexity_by_modality"]) == {"text", "image"}
    assert min(last["loss_nats_by_modality"].values()) < last["loss_nats"] < max(last["loss_nats_by_modality"].values())
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Held-out loss by modality" in report
    assert "loss by modality" in report

    with breaking_off(3):
        execute(recipe, tmp_path / "plain")
    execute(recipe, tmp_path / "plain", resume=True)
    assert weights(tmp_path / "plain") == weights(tmp_path / "run")  # weights of one, and a resumption, change no bit
    execute(recipe, tmp_path / "other", "train.loss_weights={image: 0.5}")
    assert weights(tmp_path / "other") != weights(tmp_path / "run")

    folder = export(str(tmp_path / "run"), tmp_path / "out").folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("<image_begin><image_5><image_end>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<image_begin>", "<image_5>", "<image_end>"]
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    again = evaluate_stored(str(folder), load_recipe(str(recipe))).result.row()
    assert again["loss_nats_by_modality"] == pytest.approx(last["loss_nats_by_modality"], rel=1e-5)
    assert json.loads(RunDir(tmp_path / "run", True).facts.read_text())["final"]["loss_nats_by_modality"]


def test_a_dry_run_counts_the_rows_of_codes(recipe: Path) -> None:
    before, after = (
        dry_run(load_recipe(str(recipe), [f"model.new_tokens={each}"])).costs.vocabulary
        for each in ("[]", "{image: 6}")
    )
    assert after == before + 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.new_tokens={image: 0}", "new_tokens"),
        ("model.new_tokens={image: true}", "mapping such as {name: an integer > 0}, got {image: true}"),
        ("model.new_tokens={Image: 4}", "new_tokens"),
        ("model.new_tokens={text: 4}", "text is what has no codes"),
        ("model.new_tokens={image: 999999}", "new_tokens"),
        ("model.new_tokens=image", "new_tokens"),
        ("train.loss_weights={music: 2}", "names music, which is no modality"),
        ("train.loss_weights={text: 0, image: 0}", "has zeros alone"),
        ("train.loss_weights={image: -1}", "loss_weights"),
        ("train.loss_weights=2", "loss_weights"),
        ("train.loss_weights={image: heavy}", "loss_weights"),
    ],
)
def test_wrong_values_are_told(recipe: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe), [setting])
    assert message in str(caught.value)
    assert "{'type'" not in str(caught.value)


def test_no_target_counts_where_another_loss_does(recipe: Path) -> None:
    alone = ["train.loss_weights={text: 0, image: 0}", "extra_loss.name=distillation", "extra_loss.teacher=t"]
    assert load_recipe(str(recipe), alone).recipe.train.loss_weights == {"text": 0, "image": 0}
