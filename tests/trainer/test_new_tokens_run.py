"""A run whose recipe names a chat template and new tokens: trained, resumed, scored, asked and exported with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from galore.trainer.data.batch import Progress, silent
from galore.trainer.data.survey import survey
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.chattemplates import CHAT_TEMPLATES
from galore.trainer.recipe.load import load_recipe
from galore.trainer.run import run_training
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export
from galore.trainer.trained.runmodel import load_run_model

pytestmark = pytest.mark.usefixtures("undrawn")
TOKENS = ["<|im_start|>", "<|im_end|>"]
ROWS = 257


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that knows 256 bytes and an end of text, and conversations in a file."""
    folder = tmp_path_factory.mktemp("base")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=ROWS, max_position_embeddings=128, eos_token_id=256, bos_token_id=None, **sizes)
    ).save_pretrained(folder / "model")
    turns = [[{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "yes"}] for n in range(60)]
    (folder / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    (folder / "recipe.yaml").write_text(f"""
model: {{name_or_path: model, dtype: float32, new_tokens: {json.dumps(TOKENS)}}}
data: {{source: local, path: chat.jsonl, messages_field: messages, chat_template: chatml, max_length: 64,
       validation_fraction: 0.1, cache_dir: cache}}
optim: {{method: galore, rank: 8, update_proj_gap: 2, learning_rate: 0.01, lr_scheduler_type: constant}}
train: {{max_steps: 4, global_batch_size: 4, micro_batch_size: 4, save_steps: 2, num_threads: 1, device: cpu}}
eval: {{eval_steps: 4}}
""")
    return folder / "recipe.yaml"


def execute(
    recipe: Path, out: Path, *overrides: str, resume: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    console, before = Quiet(), torch.get_num_threads()
    try:
        run_training(load_recipe(str(recipe), overrides), out, resume, console, progress)
    finally:
        torch.set_num_threads(before)
    return console.header


def weights(out: Path) -> list[tuple[str, bytes]]:
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return [(path.name, path.read_bytes()) for path in sorted(last.glob("*.safetensors"))]


@pytest.mark.parametrize("overrides", [[], ["optim.method=lora", "optim.rank=4"]], ids=["galore", "lora"])
def test_new_tokens_are_trained_resumed_scored_and_exported(
    recipe: Path, tmp_path: Path, overrides: list[str], breaking_off: Any
) -> None:
    header = execute(recipe, tmp_path / "run", *overrides)
    assert "model.new_tokens: 2 ids from 257 on; rows that are new start at the mean" in header["note"]
    assert ("trained in full beside the adapters" in header["note"]) == bool(overrides)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert facts["new_tokens"] == dict(zip(TOKENS, (257, 258), strict=True))

    stored = load_run_model(str(tmp_path / "run"))
    for layer in (stored.model.get_input_embeddings(), stored.model.get_output_embeddings()):
        rows: Any = layer.weight  # type: ignore[union-attr]
        assert len(rows) == ROWS + 2
        assert not torch.equal(rows[257], rows[258])  # alike at first: a gradient has told them apart

    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in recorded if row["kind"] == "eval"][-1]
    scored = evaluate_stored(str(tmp_path / "run")).result.row()["loss_nats"]
    assert scored == pytest.approx(last["loss_nats"], rel=1e-6 if overrides else 0)  # adapters are merged, which rounds

    folder = export(str(tmp_path / "run"), tmp_path / "out").folder
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.chat_template == CHAT_TEMPLATES["chatml"].text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == (
        "<|im_start|>user\nHi<|im_end|>\n"
    )
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.generation_config.eos_token_id == [256, 258]
    # a model is scored in the template that it has, whatever that of the recipe
    again = evaluate_stored(str(folder), load_recipe(str(recipe), ["data.chat_template=zephyr"])).result.row()
    assert again["loss_nats"] == pytest.approx(last["loss_nats"], rel=1e-5)

    with breaking_off(3):
        execute(recipe, tmp_path / "broken", *overrides)
    execute(recipe, tmp_path / "broken", *overrides, resume=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "run")


def test_a_dry_run_counts_their_rows(recipe: Path) -> None:
    table = {row.name: row.shape for row in dry_run(load_recipe(str(recipe))).parameters}
    assert table["model.embed_tokens"] == table["lm_head"] == (ROWS + 2, 32)
    lora = dry_run(load_recipe(str(recipe), ["optim.method=lora", "optim.rank=4"])).parameters
    updates = {row.name.removeprefix("base_model.model."): row.update for row in lora}
    assert updates["model.embed_tokens"] == updates["lm_head"] == "full rank"
    assert updates["model.norm"] == "frozen"


def test_a_run_finds_what_was_prepared(recipe: Path, tmp_path: Path) -> None:
    """No text is tokenized again, and the data are the same."""
    overrides, seen = ["train.max_steps=1", f"data.cache_dir={tmp_path / 'cache'}"], set[str]()
    loaded = load_recipe(str(recipe), overrides)
    prepared = survey(loaded.recipe, loaded.base_dir)
    assert prepared.made
    execute(recipe, tmp_path / "run", *overrides, progress=lambda done, total, what: seen.add(what))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert facts["fingerprint"] == prepared.summary["fingerprint"]
    assert "tokenizing" not in seen


def test_a_model_is_scored_with_the_tokens_that_it_has(recipe: Path) -> None:
    """The base knows neither the new tokens of the recipe nor a template: it is asked in bytes."""
    loaded = load_recipe(str(recipe), ["data.chat_template=null"])
    model = str(recipe.parent / "model")
    assert evaluate_stored(model, loaded).result.row()["tokens"] > 0


def test_of_a_new_model_all_rows_are_drawn(recipe: Path, tmp_path: Path) -> None:
    header = execute(recipe, tmp_path / "run", "model.random_init=true", "train.max_steps=1")
    assert "model.new_tokens: 2 ids from 257 on; their rows are drawn like all others" in header["note"]
    assert load_run_model(str(tmp_path / "run")).model.config.vocab_size == ROWS + 2


def test_another_template_is_other_data(recipe: Path, tmp_path: Path) -> None:
    names = set()
    for template in ("chatml", "zephyr"):
        execute(recipe, tmp_path / template, f"data.chat_template={template}", "train.max_steps=1")
        names.add(json.loads((tmp_path / template / "run.json").read_text())["data"]["fingerprint"])
    assert len(names) == 2
