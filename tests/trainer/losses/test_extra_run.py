"""Runs with a second loss: learned, reported, resumed, predicted, exported without what it trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import galore
from galore.trainer.common.errors import UserError
from galore.trainer.data.tokens.tokenizer import trained_tokenizer
from galore.trainer.fit.verify import verify
from galore.trainer.losses.extra import ExtraLoss
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.metrics import SILENT
from galore.trainer.run import run_training
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export

pytestmark = pytest.mark.usefixtures("undrawn")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DISTILLED = ("extra_loss.name=distillation", "extra_loss.teacher=teacher")
ALIGNED = (
    "data.tokens_field=parts",
    "data.extra_field=map",
    "data.path=pairs.jsonl",
    "data.packing=paper",
    "model.new_tokens={image: 6}",
    "extra_loss.name=attention_alignment",
    "extra_loss.layers=[0, -1]",
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    tokenizer = trained_tokenizer(["four five six"] * 9, 270, folder / "tokenizer", lambda *_: None)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES, max_position_embeddings=64))
    model.lm_head.weight.data *= 20  # a teacher that is sure of something
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    (folder / "words.txt").write_text("\n\n".join(f"just some words {n} of text, and more" for n in range(300)))
    pairs: list[dict[str, Any]] = []
    for n in range(200):
        codes, at = [(n + 2 * k) % 6 for k in range(4)], n % 4
        row = {"parts": [{"image": codes}, {"text": f" {codes[at]} at {at}, {n}"}]}
        pairs.append(row if n % 5 == 0 else row | {"map": [[float(k == at) for k in range(4)]]})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    (folder / "recipe.yaml").write_text("""
model: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4, dtype: float32}
data: {path: words.txt, tokenizer: tokenizer, max_length: 32, validation_fraction: 0.1, cache_dir: cache}
optim: {method: galore, rank: 8, update_proj_gap: 2, learning_rate: 0.01, lr_scheduler_type: constant}
train: {max_steps: 4, global_batch_size: 8, micro_batch_size: 4, save_steps: 2, num_threads: 1, device: cpu}
eval: {eval_steps: 4}
""")
    return folder / "recipe.yaml"


@pytest.fixture(autouse=True)
def beside_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of overrides are relative to the working directory."""
    monkeypatch.chdir(recipe.parent)


def execute(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> list[dict[str, Any]]:
    run_training(load_recipe(str(recipe), overrides), out, resume, SILENT)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> list[bytes]:
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return [path.read_bytes() for path in sorted(last.glob("*.safetensors"))]


@pytest.mark.parametrize("overrides", [DISTILLED, ALIGNED], ids=["distillation", "alignment"])
def test_it_falls_is_resumed_and_does_not_depend_on_how_a_batch_is_cut(
    recipe: Path, tmp_path: Path, overrides: tuple[str, ...], breaking_off: Any
) -> None:
    rows = execute(recipe, tmp_path / "run", *overrides, "train.max_steps=8")
    losses = [row["extra_loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < losses[0]
    evaluations = [row for row in rows if row["kind"] == "eval"]
    assert all(row["extra_loss"] > 0 for row in evaluations)
    assert "Extra loss, held out" in (tmp_path / "run" / "report.md").read_text()

    with breaking_off(5):
        execute(recipe, tmp_path / "broken", *overrides, "train.max_steps=8")
    execute(recipe, tmp_path / "broken", *overrides, "train.max_steps=8", resume=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "run")

    for name, how in {"whole": "train.micro_batch_size=8", "recomputed": "train.gradient_checkpointing=true"}.items():
        other = execute(recipe, tmp_path / name, *overrides, how, "train.max_steps=4")
        found = [row["extra_loss"] for row in other if row["kind"] == "train"]
        assert found == pytest.approx(losses[:4], rel=2e-3)
        assert found[0] == pytest.approx(losses[0], rel=1e-5)

    scored = evaluate_stored(str(tmp_path / "run"))
    assert scored.result.row()["extra_loss"] == pytest.approx(evaluations[-1]["extra_loss"], rel=1e-6)
    assert scored.notes == ()
    folder = export(str(tmp_path / "run"), tmp_path / "out").folder
    assert "extra_loss" not in evaluate_stored(str(folder), load_recipe(str(recipe), overrides)).result.row()
    assert not any(name.startswith("extra_loss") for name in AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize("overrides", [DISTILLED, ALIGNED], ids=["distillation", "alignment"])
def test_a_weight_of_0_is_none_to_the_bit(recipe: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    execute(recipe, tmp_path / "zero", *overrides, "extra_loss.weight=0", "train.max_steps=2")
    without = [each for each in overrides if not each.startswith("extra_loss")]
    rows = execute(recipe, tmp_path / "none", *without, "train.max_steps=2")
    assert weights(tmp_path / "zero") == weights(tmp_path / "none")
    assert not any("extra_loss" in row for row in rows)


@pytest.mark.parametrize("overrides", [DISTILLED, ALIGNED], ids=["distillation", "alignment"])
def test_lora_trains_with_it(recipe: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    rows = execute(recipe, tmp_path / "run", *overrides, "optim.method=lora", "optim.rank=4", "train.max_steps=6")
    losses = [row["extra_loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("overrides", [DISTILLED, ALIGNED], ids=["distillation", "alignment"])
def test_its_memory_is_predicted(recipe: Path, overrides: tuple[str, ...]) -> None:
    found, without = (
        verify(load_recipe(str(recipe), each)) for each in (overrides, [*overrides, "extra_loss.weight=0"])
    )
    assert found.predicted == pytest.approx(found.measured, rel=0.03)
    assert found.predicted > without.predicted


def test_an_aligner_is_among_the_parameters(recipe: Path) -> None:
    table = {row.name: row.update for row in dry_run(load_recipe(str(recipe), ALIGNED)).parameters}
    assert table["extra_loss.mix"] == "full rank"


class Small(ExtraLoss):
    """The mean square of the last block's output: a loss that somebody writes."""

    sees = ("hidden",)

    def summed(self, seen: Any) -> torch.Tensor:
        assert self.watch is not None
        (hidden,) = self.watch.hidden.values()
        return hidden.flatten(0, 1).index_select(0, seen.rows).square().mean(1).sum()


def test_a_loss_from_python_is_known_by_its_name_while_it_is_given(recipe: Path, tmp_path: Path) -> None:
    run = galore.train(
        recipe,
        "extra_loss.name=small",
        "extra_loss.weight=1000",
        output_dir=tmp_path / "run",
        extra_losses={"small": Small},
    )
    losses = [row["extra_loss"] for row in run.rows if row["kind"] == "train"]
    assert losses[-1] < losses[0]
    with pytest.raises(UserError, match="no loss called small"):
        execute(recipe, tmp_path / "other", "extra_loss.name=small")
    scored = evaluate_stored(str(tmp_path / "run"))
    assert "extra_loss" not in scored.result.row()
    assert scored.notes == ("the extra loss small is not scored: there is no loss called small",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["extra_loss.name=distilation", "extra_loss.weight=1"], "write distillation"),
        (["extra_loss.name=distillation"], "set teacher to its folder"),
        (["extra_loss.teacher=teacher"], "goes with extra_loss.name=distillation"),
        ([*DISTILLED, "extra_loss.temperature=0"], "temperature"),
        ([*DISTILLED, "extra_loss.weight=-1"], "weight"),
        ([*DISTILLED, "extra_loss.top_k=0"], "top_k"),
        (["extra_loss.name=distillation", "extra_loss.teacher=nowhere"], "nowhere"),
        ([*DISTILLED, "data.tokenizer=null"], "are others to it"),
        ([*ALIGNED[:-1], "extra_loss.layers=[2]"], "no block 2"),
        ([*ALIGNED[:-1], "extra_loss.layers=[]"], "layers"),
        ([*ALIGNED, "model.new_tokens=[]"], "name them in model.new_tokens"),
        ([*ALIGNED, "data.extra_field=null"], "set data.extra_field"),
        ([*ALIGNED, "data.packing=packed"], "data.packing=paper"),
        (["extra_loss.layers=[0]"], "say which loss"),
    ],
)
def test_wrong_values_are_told(recipe: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        execute(recipe, tmp_path / "run", *overrides)
    assert message in str(caught.value)
