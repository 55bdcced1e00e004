"""Full fine-tuning of a checkpoint on instructions: from a folder and a JSONL file to a folder that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from consoles import Quiet
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from galore.trainer.checkpoint import identity
from galore.trainer.common.errors import UserError
from galore.trainer.data.prepare import prepare_data
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import card
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.load import load_recipe, recipe_of_run
from galore.trainer.run import run_training
from galore.trainer.trained.evaluation import evaluate_stored
from galore.trainer.trained.export import export

pytestmark = pytest.mark.usefixtures("undrawn")
STEPS = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Path) -> Path:
    """A random LLaMA that knows no chat, with a tokenizer that does."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instructions")
    rows = [{"instruction": f"Say {word}", "output": "yes"} for word in map(str, range(120))]
    rows.append({"instruction": "another long one", "output": "no " * 40})
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *[{"instruction": "x"}] * 2]))
    (folder / "recipe.yaml").write_text(f"""
model: {{name_or_path: {checkpoint}, dtype: float32}}
data: {{source: local, path: chat.jsonl, prompt_field: instruction, response_field: output, max_length: 96,
       validation_fraction: 0.1, cache_dir: {folder / "cache"}}}
optim: {{method: galore, rank: 16, update_proj_gap: 4, learning_rate: 0.01, lr_scheduler_type: constant}}
train: {{max_steps: {STEPS}, global_batch_size: 8, micro_batch_size: 2, save_steps: 2, num_threads: 1, device: cpu}}
eval: {{eval_steps: 3, sample_prompt: Say 7, sample_tokens: 8}}
""")
    return folder / "recipe.yaml"


def execute(recipe: Path, out: Path, *overrides: str, resume: bool = False) -> Quiet:
    console, before = Quiet(), torch.get_num_threads()
    try:
        run_training(load_recipe(str(recipe), overrides), out, resume, console)
    finally:
        torch.set_num_threads(before)
    return console


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == kind]


def essence(out: Path) -> Any:
    keys = ("step", "loss_nats", "grad_norm", "sample_ids_crc32", "tokens", "targets")
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    return [[row[key] for key in keys] for row in rows(out)], [
        (path.name, path.read_bytes()) for path in sorted(last.glob("*.safetensors"))
    ]


def test_from_a_checkpoint_to_a_folder_that_answers(recipe: Path, tmp_path: Path, checkpoint: Path) -> None:
    console = execute(recipe, tmp_path / "run", "train.max_steps=60", "train.save_steps=60", "eval.eval_steps=30")
    steps = rows(tmp_path / "run")
    assert steps[-1]["loss_nats"] < 0.1 < 3 < steps[0]["loss_nats"]
    assert all(0 < row["targets"] < row["tokens_per_second"] * row["step_seconds"] / 4 for row in steps)
    assert steps[-1]["tokens"] == 60 * 8 * 96
    assert rows(tmp_path / "run", "eval")[-1]["sample"] == "yes"
    assert "1 truncated: longer than data.max_length" in console.header["data"]
    assert "bad rows: 2 missing_field" in console.header["data"]
    assert "left out: 2 of 123 rows (2%, 1% of the bytes), a field is missing" in console.header["warning"]

    folder = export(str(tmp_path / "run"), tmp_path / "out").folder
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(checkpoint).chat_template
    assert model.generation_config.eos_token_id == [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    ]
    question = [{"role": "user", "content": "Say 7"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "yes<|im_end|>"


def test_resume_is_bit_exact(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    execute(recipe, tmp_path / "straight")
    with breaking_off(3):
        execute(recipe, tmp_path / "broken")
    console = execute(recipe, tmp_path / "broken", resume=True)
    assert any("step-00000002" in message for message in console.messages)
    assert essence(tmp_path / "broken") == essence(tmp_path / "straight")


def test_it_is_scored_before_the_first_step_and_goes_as_if_it_were_not(recipe: Path, tmp_path: Path) -> None:
    dropout = ["optim.method=lora", "optim.rank=4", "optim.lora_dropout=0.2"]  # draws from the global generator
    for overrides in ([], dropout):
        for start in ("null", "false"):
            execute(recipe, tmp_path / start, *overrides, f"eval.at_start={start}")
        assert [row["step"] for row in rows(tmp_path / "null", "eval")] == [0, 3, 6]
        assert [row["step"] for row in rows(tmp_path / "false", "eval")] == [3, 6]
        assert essence(tmp_path / "null") == essence(tmp_path / "false")
        assert rows(tmp_path / "null", "eval")[1:][0]["loss_nats"] == rows(tmp_path / "false", "eval")[0]["loss_nats"]
        first, *_, last = rows(tmp_path / "null", "eval")
        assert first["question"] == last["question"] == "Say 7"
        assert f"before the first step {first['loss_nats']:.4f}, " in (tmp_path / "null" / "report.md").read_text()
        for start in ("null", "false"):
            shutil.rmtree(tmp_path / start)


def test_a_score_of_the_start_is_made_once(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    with breaking_off(0):
        execute(recipe, tmp_path / "run")
    execute(recipe, tmp_path / "run", resume=True)
    assert [row["step"] for row in rows(tmp_path / "run", "eval")] == [0, 3, 6]


def test_micro_batches_do_not_matter(recipe: Path, tmp_path: Path) -> None:
    """Their numbers of targets differ; the mean is over all of the step's."""
    for size in (1, 8):
        execute(
            recipe, tmp_path / str(size), f"train.micro_batch_size={size}", "optim.method=full", "train.max_steps=2"
        )
    one, eight = (rows(tmp_path / str(size)) for size in (1, 8))
    assert [row["targets"] for row in one] == [row["targets"] for row in eight]
    assert [row["loss_nats"] for row in one] == pytest.approx([row["loss_nats"] for row in eight], rel=1e-5)
    assert one[0]["grad_norm"] == pytest.approx(eight[0]["grad_norm"], rel=1e-5)


def test_a_run_is_scored_on_the_responses_it_holds_out(recipe: Path, tmp_path: Path) -> None:
    execute(recipe, tmp_path / "run")
    scored = evaluate_stored(str(tmp_path / "run")).result
    recorded = rows(tmp_path / "run", "eval")[-1]
    assert (scored.loss_nats, scored.tokens) == (recorded["loss_nats"], recorded["tokens"])
    documents = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["documents"]["validation"]
    assert scored.tokens == documents * len(["y", "e", "s", "<|im_end|>"])


def test_the_dry_run_and_the_memory_profile_need_no_data(recipe: Path) -> None:
    loaded = load_recipe(str(recipe), ["data.path=nowhere.jsonl"])
    assert dry_run(loaded).parameters
    assert profile_on(loaded, card("rtx4090")).fits


# -- examples that do not see each other


SAME = (
    "optim.method=full",
    "optim.learning_rate=0.001",
    "train.max_steps=4",
    "train.save_steps=4",
    "data.shuffle=false",
)


def test_packed_and_isolated_is_one_example_per_row(recipe: Path, tmp_path: Path) -> None:
    """All examples in each step, as many to a row as fit or one to each: the same losses; others if they leak."""
    ways = {"paper": ["data.packing=paper"], "packed": [], "leaking": ["data.isolate_documents=false"]}
    losses, held_out = {}, {}
    for name, settings in ways.items():
        count = prepare_data(load_recipe(str(recipe), settings).recipe, recipe.parent).num_sequences
        out = tmp_path / name
        sizes = (f"train.global_batch_size={count}", f"train.micro_batch_size={count}")
        execute(recipe, out, *SAME, *settings, *sizes)
        assert isolates(out) is (name == "packed")
        losses[name] = [row["loss_nats"] for row in rows(out)]
        held_out[name] = rows(out, "eval")[-1]["loss_nats"]
        assert len({row["targets"] for row in rows(out)}) == 1
    assert losses["packed"] == pytest.approx(losses["paper"], rel=1e-5)
    assert held_out["packed"] == pytest.approx(held_out["paper"], rel=1e-5)
    assert losses["leaking"] != pytest.approx(losses["paper"], rel=1e-4)
    scored = {name: evaluate_stored(str(tmp_path / name)).result.loss_nats for name in ways}
    assert scored == pytest.approx(held_out)


def isolates(out: Path) -> bool:
    return any("isolated" in line for line in json.loads((out / "run.json").read_text())["kernels"])


def test_a_run_of_before_goes_on_as_it_was(recipe: Path, tmp_path: Path, breaking_off: Any) -> None:
    """Its recipe and its checkpoints know nothing of `isolate_documents`: its examples saw each other, and go on to."""
    key, leaking = "isolate_documents", "data.isolate_documents=false"
    execute(recipe, tmp_path / "straight", leaking)
    known = identity.mathematics
    with breaking_off(3) as patch:
        patch.setattr(identity, "mathematics", lambda *args: {k: v for k, v in known(*args).items() if key not in k})
        execute(recipe, tmp_path / "old", leaking)
    file = tmp_path / "old" / "recipe.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if f"{key}:" not in line))

    assert not recipe_of_run(file).data.isolates
    with pytest.raises(UserError, match=f"data.{key}: false → true"):
        execute(recipe, tmp_path / "old", f"data.{key}=true", resume=True)
    execute(recipe, tmp_path / "old", resume=True)
    assert not isolates(tmp_path / "old")
    assert essence(tmp_path / "old") == essence(tmp_path / "straight")
    assert f"{key}: false" in file.read_text()
    execute(recipe, tmp_path / "old", resume=True)  # nothing is left to do, and nothing is refused
