"""`galore recipes`: list, show, copy, validate, schema."""

from __future__ import annotations

import json
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.recipe.load import load_recipe, recipe_from_resolved
from galore.trainer.recipe.shipped import SCHEMA_FILE, shipped_names


def test_list(galore: Any) -> None:
    lines = galore("recipes", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == shipped_names()
    assert lines[0].startswith("demo ")
    assert "King James" in lines[0]


def test_show_is_a_recipe(galore: Any) -> None:
    shown = galore("recipes", "show", "llama-60m", "optim.rank=8")
    recipe = recipe_from_resolved(shown.stdout, "shown")
    assert recipe == load_recipe("llama-60m", ["optim.rank=8"]).recipe
    assert "# Resolved from llama-60m\n#   optim.rank=8\n" in shown.stdout


def test_copy_then_validate(galore: Any) -> None:
    copied = galore("recipes", "copy", "demo", "mine.yaml", "train.max_steps=7")
    assert copied.exit_code == 0
    assert "galore train mine.yaml" in copied.stdout
    assert load_recipe("mine.yaml").recipe.train.max_steps == 7
    assert galore("recipes", "validate", "mine.yaml").stdout == "mine.yaml: ok\n"
    again = galore("recipes", "copy", "demo", "mine.yaml")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (2, "error: mine.yaml: exists already")


def test_copy_says_that_it_made_a_folder(galore: Any) -> None:
    copied = galore("recipes", "copy", "demo", "nodir/deep/x.yaml").stdout.splitlines()
    assert copied[0] == "made the folder nodir/deep"
    assert not any("made" in galore("recipes", "copy", "demo", place).stdout for place in ("nodir/y.yaml", "nodir"))


def test_validate_reports_every_file(galore: Any) -> None:
    Path("a.yaml").write_text("lr: 1")
    Path("b.yaml").write_text("")
    result = galore("recipes", "validate", "a.yaml", "demo", "b.yaml", "c.yaml")
    assert result.exit_code == 2
    assert result.stdout == "demo: ok\n"
    assert "error: a.yaml: 3 errors\n  a.yaml:1:1: lr: unknown key\n" in result.stderr
    assert "b.yaml: is empty" in result.stderr
    assert "c.yaml: no such file" in result.stderr


def test_validate_holds_settings_for_every_file(galore: Any) -> None:
    result = galore("recipes", "validate", "demo", "llama-60m", "optim.rank=0", "train.max_steps=7")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("override `optim.rank=0`: optim.rank: expected an integer > 0") == 2
    assert galore("recipes", "validate", "demo", "llama-60m", "train.max_steps=7").stdout == "demo: ok\nllama-60m: ok\n"


def test_a_file_in_a_folder_that_is_not_there(galore: Any) -> None:
    refused = galore("recipes", "schema", "--output", "nowhere/s.json")
    assert refused.exit_code == 2
    assert refused.stderr == "error: --output: there is no folder nowhere\n  → make it, or write elsewhere\n"


def test_a_recipe_that_has_no_place_is_refused_in_words(galore: Any) -> None:
    Path("file").touch()
    Path("theirs.yaml").write_text("base_model: gpt2\ndatasets: [{path: x, type: alpaca}]\nmicro_batch_size: 1\n")
    for arguments, told in (
        (("convert", "theirs.yaml", "--from", "axolotl", "--output", "no/y.yaml"), "--output: there is no folder no"),
        (
            ("convert", "theirs.yaml", "--from", "axolotl", "--output", "file/y.yaml"),
            "--output: there is no folder file",
        ),
        (("copy", "demo", "file/y.yaml"), "file: is a file"),
        (("copy", "demo", "file/deep/y.yaml"), "file: is a file"),
    ):
        refused = galore("recipes", *arguments)
        assert refused.exit_code == 2
        assert told in refused.stderr
        assert "durable" not in refused.stderr


def test_validate_tells_what_is_not_here(galore: Any) -> None:
    """A recipe is right or wrong wherever it is read; whether its data are here is another question."""
    Path("here.txt").write_text("text")
    Path("a.yaml").write_text("extends: demo\ndata: {source: local, path: hare.txt}\n")
    Path("b.yaml").write_text("extends: demo\ndata: {source: local, path: here.txt}\n")
    checked = galore("recipes", "validate", "a.yaml", "b.yaml")
    assert checked.exit_code == 0
    first, *told, last = checked.stdout.splitlines()
    assert first == "a.yaml: ok, but not all that it names is here; a run here would be refused"
    assert told[0].startswith("  data.path: no file matches ")
    assert told[1].endswith("/here.txt?")
    assert last == "b.yaml: ok"


def test_schema(galore: Any) -> None:
    printed = galore("recipes", "schema").stdout
    assert printed == SCHEMA_FILE.read_text(encoding="utf-8")
    assert galore("recipes", "schema", "--output", "s.json").exit_code == 0
    assert json.loads(Path("s.json").read_text(encoding="utf-8")) == json.loads(printed)


@pytest.mark.parametrize(
    ("arguments", "line", "fix"),
    [
        (["train", "demo", "--max_steps", "3"], "--max_steps", "train.max_steps=3"),
        (["train", "--max-steps=3", "demo"], "--max-steps", "train.max_steps=3"),
        (["train", "demo", "--train.max_steps", "3"], "--train.max_steps", "train.max_steps=3"),
        (["train", "demo", "--task", "rte"], "--task", "data.task=rte"),
        (["compare", "demo", "--lr", "0.1", "--methods", "full"], "--lr", "optim.learning_rate=0.1"),
        (["train", "demo", "--bf16"], "--bf16", "model.dtype=bfloat16"),
        (["profile-memory", "demo", "--shuffle", "--json"], "--shuffle", "data.shuffle=…"),
        (["eval", "runs/one", "--max-length", "9"], "--max-length", "data.max_length=9"),
        (["recipes", "show", "demo", "--rank", "4"], "--rank", "optim.rank=4"),
    ],
)
def test_a_key_given_like_an_option(galore: Any, arguments: list[str], line: str, fix: str) -> None:
    refused = galore(*arguments)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {line}: is no option but a key of the recipe\n  → write {fix}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "demo", "--batch-size", "4"], "train.global_batch_size"),
        (
            ["train", "--config", "x.yaml"],
            "--config: is no option: the recipe is an argument\n  → write galore train x.yaml\n",
        ),
        (["train", "--config_file=x.yaml"], "write galore train x.yaml\n"),
        (["profile-memory", "--recipe"], "write galore profile-memory RECIPE\n"),
        (["train", "demo", "--gradient-accumulation-steps", "8"], "train.global_batch_size"),
        (["train", "demo", "--trust-remote-code"], "never run: leave it out"),
        (["run", "demo"], "run: is no verb\n  → write galore train RECIPE\n"),
        (["fit", "demo"], "write galore profile-memory RECIPE --fit FILE\n"),
        (["finetune"], "galore train finetune-instruct, or for the tasks of GLUE galore finetune-glue RECIPE\n"),
        (["fine-tune", "x"], "galore train finetune-instruct"),
    ],
)
def test_what_other_tools_call_it_is_answered(galore: Any, arguments: list[str], told: str) -> None:
    refused = galore(*arguments)
    assert refused.exit_code == 2
    assert told in refused.stderr


@pytest.mark.parametrize(
    "verb", ["", "train", "runs", "doctor", "generate", "recipes", "recipes copy", "recipes validate", "bench kernels"]
)
def test_a_flag_looks_as_if_it_took_no_value(galore: Any, verb: str) -> None:
    shown = galore(*verb.split(), "--help").stdout
    assert "--help" in shown
    assert "<bool>" not in shown


def test_other_unknown_options_are_for_click(galore: Any) -> None:
    assert "--output-dir" in galore("train", "demo", "--outputdir", "x").stderr
    assert "No such option" in galore("generate", "runs/one", "--prompt", "a", "--rank", "4").stderr


@pytest.mark.parametrize("command", [("copy", "demo", "mine.yaml", "--force"), ("schema", "--output", "mine.yaml")])
def test_a_disk_that_takes_no_more_costs_no_file(galore: Any, command: tuple[str, ...]) -> None:
    Path("mine.yaml").write_text("precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with suppress(OSError):
            assert galore("recipes", *command).exit_code != 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path("mine.yaml").read_text() == "precious"
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]
