"""The last lines of a run: commands that can be typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

from galore.cli.show.progress.nextcommands import next_commands
from galore.trainer.recipe.load import load_recipe
from galore.trainer.record.rundir import RunDir


def commands(run: RunDir, recipe: str, *overrides: str) -> list[list[str]]:
    told = next_commands(run, load_recipe(recipe, overrides).recipe)
    assert told.startswith("next:   ")
    return [shlex.split(line.removeprefix("next:")) for line in told.splitlines()]


def test_a_language_model_is_generated_from_scored_and_exported(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a run")
    run.root.mkdir()
    name = str(run.root)
    asked = commands(run, "demo", "eval.sample_prompt=it's")
    assert asked == [["galore", "generate", name, "--prompt", "it's"], ["galore", "export", name, "OUT"]]
    run.facts.write_text('{"unigram_loss_nats": 7.0}')
    assert ["galore", "eval", name] in commands(run, "demo")
    assert ["galore", "eval", name, "--checkpoint", "best"] in commands(run, "demo", "train.save_best=true")
    for prompt in ("null", "x" * 41, '"a\\nb"'):
        assert commands(run, "demo", f"eval.sample_prompt={prompt}")[0][-1] == "…"


def test_a_classifier_continues_no_text(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"baseline": {}}')
    told = commands(RunDir(tmp_path), "roberta-glue-galore-r4", "data.task=rte")
    assert [words[1] for words in told] == ["eval", "export"]


def test_a_run_on_instructions_can_be_talked_to(tmp_path: Path) -> None:
    told = commands(RunDir(tmp_path), "finetune-instruct", "model.name_or_path=m", "data.path=x.jsonl")
    assert [words[1] for words in told] == ["generate", "chat", "export"]
