"""Every verb works with the core dependencies alone, or says in one line what to install before any work is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import without_extras

from galore.trainer.recipe.extras import EXTRAS
from galore.trainer.recipe.shipped import shipped_names

DECODER = (
    "model.hidden_size=64", "model.intermediate_size=96", "model.num_hidden_layers=1", "model.num_attention_heads=4",
    "data.max_length=32", "data.tokenizer_vocab_size=300", "optim.rank=8", "train.global_batch_size=2",
    "train.micro_batch_size=2", "train.max_steps=2", "eval.sample_prompt=null", "eval.max_tokens=64",
)  # fmt: skip
TEXT = ("data.source=local", "data.path=text.txt", "data.cache_dir=cache")
EIGHT = "optim.state_dtype=8bit"
PROFILE = ("model.num_hidden_layers=1", "data.max_length=64", "--no-advise", "--gpu", "rtx4090")
GLUE = ("finetune-glue", "--task", "sst2", "train.num_train_epochs=null", "train.max_steps=1", "data.max_length=32")

WORK: dict[str, tuple[str, ...]] = {
    "train": ("train", "demo", *DECODER, *TEXT, EIGHT, "--output-dir", "run"),
    "resume": ("train", "run/recipe.yaml", "--output-dir", "run", "--resume"),
    "dry run": ("train", "demo", *DECODER, EIGHT, "--dry-run"),
    "eval": ("eval", "run"),
    "generate": ("generate", "run", "--prompt", "The", "--max-new-tokens", "3"),
    "export": ("export", "run", "exported"),
    "compare": ("compare", "demo", *DECODER, *TEXT, "--methods", "full-8bit,galore-8bit", "--output-dir", "compared"),
    "profile": ("profile-memory", "llama-60m-galore-8bit", *PROFILE),
    "profile 7B": ("profile-memory", "llama-7b-24gb", *PROFILE),
    "profile 7B on 12 GB": ("profile-memory", "llama-7b-12gb", *PROFILE),
    "profile 13B": ("profile-memory", "llama-13b-24gb", *PROFILE),
    "profile in time": ("profile-memory", "demo", *DECODER, "--no-advise", "--timeline", "time.html"),
    "profile compared": ("profile-memory", "demo", *DECODER, "--compare"),
    "profile measured": ("profile-memory", "demo", *DECODER, EIGHT, "--measure"),
    "finetune-glue": (*GLUE, "--model", "roberta", "--data-dir", "glue", "--output-dir", "tuned"),
    "finetune-glue help": ("finetune-glue", "--help"),
    "doctor": ("doctor",),
    "version": ("--version",),
    "list": ("recipes", "list"),
    "show": ("recipes", "show", "llama-7b-24gb"),
    "validate": ("recipes", "validate", "llama-7b-lora", "llama-7b-24gb"),
    "copy": ("recipes", "copy", "llama-7b-24gb", "mine.yaml"),
    "schema": ("recipes", "schema"),
}
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "packaged corpus": ("demo", ("train", "demo", *DECODER, "--output-dir", "never")),
    "adapters": ("lora", ("train", "demo", *DECODER, *TEXT, "optim.method=lora", "data.cache_dir=never", "--output-dir", "never")),
    "adapters, dry run": ("lora", ("train", "demo", *DECODER, "optim.method=lora", "--dry-run")),
    "adapters, profile": ("lora", ("profile-memory", "demo", *DECODER, "optim.method=lora")),
    "adapters, compare": ("lora", ("compare", "demo", *DECODER, *TEXT, "--output-dir", "never")),
    "adapters, GLUE": ("lora", (*GLUE, "--method", "lora", "--model", "roberta", "--data-dir", "glue", "--output-dir", "never")),
    "tracking": ("wandb", ("train", "demo", *DECODER, *TEXT, "log.report_to=wandb", "data.cache_dir=never", "--output-dir", "never")),
    "hub": ("data", ("train", "demo", *DECODER, "data.source=hub", "data.path=a/b", "--output-dir", "never")),
    "hub, GLUE": ("data", (*GLUE, "--model", "roberta", "--output-dir", "never")),
    "parquet": (
        "data",
        ("train", "demo", *DECODER, *TEXT, "data.path=[text.txt, rows.parquet]", "data.cache_dir=never", "--output-dir", "never"),
    ),
    "parquet held out": (
        "data",
        ("train", "demo", *DECODER, *TEXT, "data.validation_path=rows.parquet", "data.cache_dir=never", "--output-dir", "never"),
    ),
    "picture in time": ("plots", ("profile-memory", "llama-7b-24gb", "--timeline", "never.png")),
    "picture compared": ("plots", ("profile-memory", "llama-7b-24gb", "--compare", "--picture", "never.png")),
    "kernels": ("triton", ("bench", "kernels")),
}  # fmt: skip


def run(folder: Path, commands: list[tuple[str, ...]]) -> list[dict[str, Any]]:
    """One process for all of them: what takes long is the imports."""
    done = subprocess.run(
        [sys.executable, "-P", without_extras.__file__],
        input=json.dumps(commands),
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "XDG_CACHE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("core")


@pytest.fixture(scope="module")
def results(folder: Path, tiny_roberta: Path) -> dict[str, Any]:
    (folder / "text.txt").write_text("\n\n".join(f"the quick brown fox number {k} jumps over it" for k in range(400)))
    (folder / "rows.parquet").write_bytes(b"PAR1")
    (folder / "roberta").symlink_to(tiny_roberta)
    (folder / "glue/sst2").mkdir(parents=True)
    rows = "".join(
        f'{{"sentence": "the film was {("bad", "good")[n % 2]}", "label": {n % 2}, "idx": {n}}}\n' for n in range(40)
    )
    for split in ("train", "validation"):
        (folder / f"glue/sst2/{split}.jsonl").write_text(rows)
    names = [*WORK, *NEEDS]
    return dict(zip(names, run(folder, [*WORK.values(), *(command for _, command in NEEDS.values())]), strict=True))


def test_all_extras_are_blocked() -> None:
    assert set(EXTRAS) == without_extras.MODULES


@pytest.mark.parametrize("name", WORK)
def test_it_works(results: dict[str, Any], name: str) -> None:
    found = results[name]
    assert found["code"] == 0, found["traceback"] or found["stderr"]


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_missing_is_said_before_any_work(results: dict[str, Any], folder: Path, name: str) -> None:
    found, (extra, _) = results[name], NEEDS[name]
    assert found["code"] == 2, found["traceback"] or found["stdout"]
    what, fix = found["stderr"].strip().splitlines()
    assert what.startswith("error: ")
    assert f"pip install 'galore-llm[{extra}]'" in fix
    assert not list(folder.glob("never*"))


def test_a_run_says_what_it_does_without(results: dict[str, Any], folder: Path) -> None:
    said = results["train"]["stdout"]
    assert "no plots: matplotlib is not installed (pip install 'galore-llm[plots]')" in said
    report = (folder / "run/report.md").read_text()
    assert "8-bit states: torch (bitsandbytes is not installed (pip install 'galore-llm[8bit]')" in report
    assert "pip install 'galore-llm[plots]'" in report
    assert "no plots: " in results["compare"]["stdout"]
    assert "no plots: " in results["finetune-glue"]["stdout"]


def test_doctor_names_every_extra(results: dict[str, Any]) -> None:
    said = results["doctor"]["stdout"]
    assert all(
        f"not installed: pip install 'galore-llm[{extra.name}]'" in said
        for extra in EXTRAS.values()
        if extra.name != "triton"
    )
    assert "8-bit states torch: bitsandbytes is not installed" in " ".join(said.split())


def test_a_comparison_of_memory_leaves_lora_out_and_says_so(results: dict[str, Any]) -> None:
    assert "LoRA is left out: peft is not installed" in results["profile compared"]["stderr"]
    assert "LoRA" not in results["profile compared"]["stdout"]


@pytest.mark.slow
def test_every_shipped_recipe_is_profiled(folder: Path) -> None:
    commands = {name: ("profile-memory", name, "--no-advise", "--gpu", "rtx4090", "--json") for name in shipped_names()}
    for name, found in zip(commands, run(folder, [*commands.values()]), strict=True):
        assert not found["traceback"], found["traceback"]
        said = f"{name}: {found['stderr']}"
        assert found["code"] == 0 or (found["code"] == 2 and ("galore-llm[lora]" in said or "roberta" in said)), said
