"""What the documentation tells one to type works: each command runs here, or small, or at least as far as it is understood."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from snippets import FILES, ROOT, Snippet, blocks, commands, lines, spans
from typer.testing import CliRunner

from galore.cli.main import app
from galore.trainer.recipe.explain.fields import fields, sections
from galore.trainer.recipe.load import load_recipe

TINY = """
extends: copied.yaml
model: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 300}
data: {source: local, path: corpus.txt, tokenizer_vocab_size: 300, max_length: 16, validation_fraction: 0.2}
optim: {update_proj_gap: 2}
train: {max_steps: 2, global_batch_size: 4, micro_batch_size: 2, device: cpu}
eval: {eval_steps: 1}
"""
SMALL = ["model.hidden_size=32", "model.intermediate_size=48", "model.num_attention_heads=2", "model.vocab_size=300"]
SMALL += ["model.num_hidden_layers=2", "data.max_length=16"]

FIRST = next(block for block in blocks("sh") if "galore recipes list" in block.text)
IN_ORDER = lines(FIRST)  # of the README: each as it is, on a recipe of a few thousand weights
HERE = {  # runs by itself: → what makes it small
    "galore profile-memory llama-7b-galore-8bit": SMALL,
    "galore profile-memory llama-7b --compare --picture methods.png": SMALL,
    "galore profile-memory my.yaml --timeline memory.html": [],
    "galore profile-memory my.yaml --measure": [],
    "galore profile-memory llama-7b-galore-8bit --gpus 2": SMALL,
    "galore profile-memory my.yaml --gpus 2": [],
    "galore profile-memory llama-7b-galore-8bit --gpus 4 --parallel fsdp": SMALL,
    "galore profile-memory my.yaml --gpus 4 --parallel fsdp": [],
    "galore profile-memory my.yaml": [],
    "galore profile-memory my.yaml --no-advise": [],
    "galore profile-memory my.yaml train.matmul=int8": [],
    "galore prepare my.yaml": [],
    "galore profile-memory retnet-1.3b": SMALL,
    "galore train my.yaml --dry-run": [],
    "galore recipes show demo": [],
    "galore recipes show my.yaml": [],
    "galore recipes schema --output recipe.schema.json": [],
}
SLOW = {
    "galore profile-memory llama-7b-galore-8bit": [],
    "galore profile-memory llama-7b-galore --fit smaller.yaml": SMALL,
    "galore compare my.yaml --methods full,galore,lora --learning-rates auto": [],
}
ON_A_RUN = {
    "galore web runs/one",
    "galore web runs/one runs/two --output both.html",
    "galore report runs/one --html",
}
PLANNED = {  # is understood to the last word and planned; training itself is left out
    "galore finetune-glue --task sst2",
    "galore finetune-glue --task cola",
    "galore train my.yaml --output-dir runs/two --resume parallel.mode=auto parallel.checkpoints=whole",
    "galore train runs/demo --resume",
    "galore train runs/demo --resume train.max_steps=40000",
    "galore finetune-glue --task mrpc,rte --method galore,lora,full --runs 5",
    "galore finetune-glue --task all --resume",
    "galore finetune-glue --task all --output-dir runs/all --resume",
    "galore finetune-glue --task stsb --predict-test",
    "galore finetune-glue --task sst2 --json",
    "galore finetune-glue --task sst2 --model DIR --data-dir DIR --method frugal-rotate "
    "--learning-rates 5e-4,1e-3,2e-3 --max-train-samples 3000 train.num_train_epochs=1 optim.update_proj_gap=5",
    "galore train roberta-glue-galore-r4 data.task=rte",
    "galore train demo --output-dir runs/demo --resume",
    "galore train my.yaml",
    "galore train retnet-demo",
    "galore train retnet-demo data.max_length=2048 train.global_batch_size=4 train.micro_batch_size=4",
    "galore train demo --output-dir runs/demo 'train.snapshot_parameters=[norm]' train.snapshot_total_limit=200",
    "galore train my.yaml optim.rank=64",
    "galore compare my.yaml --learning-rates 0.003,0.01,0.03",
    "galore compare my.yaml",
    "galore compare demo --methods full,galore,lora --learning-rates auto --seeds 1,2,3",
    "galore train demo log.profile_steps=20-22",
    "galore compare llama-60m-normuon --methods galore:optim.rank=0.25,normuon-joint-4bit,normuon --learning-rates auto",
    "galore compare my.yaml --methods full,galore,lora,relora,low-rank",
    "galore compare my.yaml --methods full,galore,lora --learning-rates auto",
}
NEEDS_A_GPU = {"galore bench kernels --tune"}
NEEDS_MORE = {  # somebody who types, an extra, or the hub: its options are known, and its own tests try it
    "galore recipes copy demo my.yaml",
    "galore train RUN --resume train.num_train_epochs=2",
    "galore eval runs/one",
    "galore profile-memory finetune-instruct --model llama-3-8b --gpu rtx4090 --no-advise optim.state_dtype=8bit "
    "optim.accumulator_dtype=bfloat16 optim.projector_dtype=int8 optim.weight_dtype=int8",
    "galore chat runs/one",
    "galore chat runs/chat",
    "galore eval RUN",
    "galore eval RUN --by-position",
    "galore eval RUN --passkey 256,1024,2048",
    "galore eval RUN --passkey 4096,8192,16384",
    "galore eval runs/base data.max_length=2048 model.max_position_embeddings=2048 'model.rope={type: yarn, factor: 8}'",
    "galore export RUN OUT",
    "galore export runs/one exported --recipe axolotl",
    "galore profile-memory --model llama-2-70b",
    "galore profile-memory llama-7b-24gb --gpu rtx4090 --fastest --ram 64 --fit fast.yaml --plot choices.png",
    "galore profile-memory my.yaml --gpu rtx4090 --fastest",
    "galore profile-memory llama-32b-24gb --gpu rtx4090 --ram 64",
    "galore profile-memory llama-7b-12gb --longest --gpu rtx4090 --ram 64",
    "galore profile-memory --model llama-2-70b --gpu 80GB",
    "galore profile-memory --model qwen3-8b --method lora optim.rank=16 --gpu 16GB",
    "galore profile-memory llama-7b-12gb --model llama-3-8b data.max_length=4096 --gpu 12GB",
    "galore rope-search MODEL my.yaml --length 16384",
    "galore rope-search MODEL my.yaml --length 2048 --rows 8 --generations 20 --budget 30m --output-dir found",
    "galore rope-search RUN my.yaml --length 256",
    "galore runs /shared/runs/two --exit-code",
    "galore runs RUN --exit-code",
    "galore train extend-context model.name_or_path=MODEL 'data.path=books/*.jsonl'",
    "galore train extend-context model.name_or_path=MODEL data.max_length=2048 train.length_stages=[] "
    "'model.rope={type: longrope, factors: found/rope.json}'",
    "galore eval runs/one --tasks hellaswag,arc_easy --limit 100",
    "galore export runs/one exported --max-shard-size 5GB --ollama --license apache-2.0",
    "galore export runs/one pushed --ollama --push OWNER/MODEL --private",
    "galore export runs/one pushed --push OWNER/MODEL --private",
}
RUN, IMPORTED = ("long-context.md",), ("architectures.md", "extra-loss.md")  # Python of pages
SCRIPTS = ("python bench/", "python docs/examples/")
BY_THE_SHELL = {"galore --install-completion", "source .venv/bin/activate", "python -m galore"}
TYPED = [Snippet(each.file, each.language, each.text.replace("RECIPE", "my.yaml")) for each in commands()]


def is_mention(words: list[str]) -> bool:
    """Whether a command only names a verb."""
    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        command = getattr(command, "commands", {}).get(word)
    return command is not None


def decided(command: str) -> bool:
    if command.startswith(("make ", *SCRIPTS, "pip install ")):
        return True  # a test below is about all of these
    known = command in {*IN_ORDER, *HERE, *SLOW, *ON_A_RUN, *PLANNED, *NEEDS_A_GPU, *NEEDS_MORE, *BY_THE_SHELL}
    return known or (command.startswith("galore ") and is_mention(command.split()))


@pytest.mark.parametrize("command", TYPED, ids=lambda each: f"{each.file}: {each.text}")
def test_somebody_decided_how_it_is_tried(command: Snippet) -> None:
    assert decided(command.text), f"{command.file} says `{command.text}`: add it to a table of this file"


def test_no_decision_outlives_its_command() -> None:
    assert {*HERE, *SLOW, *ON_A_RUN, *PLANNED, *NEEDS_A_GPU, *NEEDS_MORE} <= {each.text for each in TYPED}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_roberta: Path, glue_folder: Path) -> Path:
    """Where one types: with the files that the documentation speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("GALORE_CACHE", str(tmp_path / "cache"))
    text = "\n\n".join(
        f"In the beginning of day {number} there was a word, and it was {number}." for number in range(99)
    )
    (tmp_path / "corpus.txt").write_text(text)
    (tmp_path / "copied.yaml").write_text("extends: llama-60m-galore")
    (tmp_path / "my.yaml").write_text(TINY)
    (tmp_path / "model").symlink_to(tiny_roberta)
    (tmp_path / "theirs.yaml").symlink_to(ROOT / "tests/trainer/recipe/convert/files/axolotl.yaml")
    return tmp_path


def type_in(command: str, more: list[str] | None = None) -> Any:
    """`command` in this process."""
    typed = command.replace("--model DIR", "--model model").replace("--data-dir DIR", "--data-dir glue")
    words = [*shlex.split(typed)[1:], *(more or [])]
    result = CliRunner().invoke(app, words, prog_name="galore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_first_block_of_the_readme_works_in_its_order(folder: Path) -> None:
    (folder / "my.yaml").unlink()
    for command in [each for each in IN_ORDER if each not in {*PLANNED, *NEEDS_MORE}]:
        if "runs/two" in command:
            shutil.copytree("runs/one", "runs/two")
        result = type_in(command)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        if command.startswith("galore recipes copy"):
            (folder / "my.yaml").rename(folder / "copied.yaml")
            (folder / "my.yaml").write_text(TINY)
    for left in ("ours.yaml", "runs/one/report.html", "both.html", "exported/model.safetensors"):
        assert (folder / left).is_file()


def runs(folder: Path, command: str, more: list[str]) -> None:
    result = type_in(command, more)
    assert result.exit_code == 0, result.output
    for file in re.findall(r"\w+\.(?:png|html)|(?<=--fit )\w+\.yaml", command):
        assert (folder / file).is_file() or "fits" in result.output


@pytest.mark.parametrize("command", HERE)
def test_it_runs(folder: Path, command: str) -> None:
    runs(folder, command, HERE[command])


@pytest.mark.parametrize("command", sorted(ON_A_RUN))
def test_it_works_on_runs(folder: Path, command: str) -> None:
    for name in ("one", "two"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "recipe.yaml").write_text("extends: demo")
        (folder / "runs" / name / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss_nats": 3.0}\n')
    assert type_in(command).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_it_runs_in_its_time(folder: Path, command: str) -> None:
    runs(folder, command, SLOW[command])


@pytest.mark.parametrize("command", sorted(PLANNED))
def test_it_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    planned: list[Any] = []
    for name, text in (("recipe.yaml", "extends: demo"), ("run.json", "{}")):
        (folder / "runs/demo").mkdir(parents=True, exist_ok=True)
        (folder / "runs/demo" / name).write_text(text)
    nothing = SimpleNamespace(compared=[], undone={}, apart={})
    fake = {
        "galore.trainer.sweep.glue.finetune": {"finetune": lambda trials, *_: (planned.extend(trials) or nothing, {})},
        "galore.trainer.sweep.compare.run": {"compare": lambda loaded, trials, *_: planned.extend(trials) or nothing},
        "galore.trainer.run": {"run_training": lambda loaded, *_: planned.append(loaded)},
        "galore.cli.show.gluetable": dict.fromkeys(("show_losses", "show_scores", "show_missing"), lambda found: None),
    }
    for module, names in fake.items():
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**names))
    assert type_in(command).exit_code == 0
    assert planned


@pytest.mark.parametrize("command", sorted(NEEDS_A_GPU))
def test_it_says_that_it_needs_a_gpu(folder: Path, command: str) -> None:
    result = type_in(command)
    assert (result.exit_code, "GPU" in result.stderr) == (2, True), result.output


@pytest.mark.parametrize("command", sorted({each.text for each in TYPED if each.text.startswith("galore ")}))
def test_every_option_is_known(command: str) -> None:
    verb: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while hasattr(verb, "commands") and not words[0].startswith("-"):
        verb = verb.commands[words.pop(0)]
        if not words:
            return
    if command not in BY_THE_SHELL:
        verb.make_context("galore", words)


def test_the_completion_is_installed_by_the_option_that_is_named() -> None:
    options = {name for each in typer.main.get_command(app).params for name in each.opts}
    assert {each.split()[-1] for each in BY_THE_SHELL if each.startswith("galore")} <= options


@pytest.mark.parametrize("command", sorted({each.text for each in TYPED if each.text.startswith("make ")}))
def test_make_knows_the_target_and_the_variables(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, equals, value = word.partition("=")
        assert re.search(rf"^{name} \?=" if equals else rf"^{name}:", makefile, re.M), word
        if name == "GPU_ARGS":
            assert_script_knows("bench/gpu/__main__.py", shlex.split(value))


@pytest.mark.parametrize("command", sorted({each.text for each in TYPED if each.text.startswith(SCRIPTS)}))
def test_the_script_is_there_and_knows_its_arguments(command: str) -> None:
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    assert_script_knows("bench/gpu/__main__.py" if script == "bench/gpu/start.py" else script, words)


def assert_script_knows(script: str, words: list[str]) -> None:
    """Words and options stand in quotes in the script; names of its parts may be somewhere beside it, and recipes are shipped."""
    source = (ROOT / script).read_text()
    beside = "".join(path.read_text() for path in (ROOT / script).parent.glob("proofs/__init__.py"))
    parts = [part for each in words for part in ([each] if " " in each else re.split("[,:]", each))]
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    for word in [part for part in parts if part not in shipped and not re.fullmatch(r"\d+|[A-Z]+\.\w+", part)]:
        assert f'"{word}"' in source + beside, f"{script} knows no {word}"


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"`\.\[(\w+)\]`", (ROOT / "README.md").read_text()))
    assert named
    assert named <= set(project["optional-dependencies"])


def test_no_block_is_of_a_kind_that_nobody_tries() -> None:
    assert {each.language for each in blocks()} <= {"sh", "bash", "yaml", "python", "text"}
    assert [each.file for each in blocks("python")].count("README.md") == 1, "tests/test_readme.py runs one"
    elsewhere = {"README.md", "own-loop.md", "runs.md"}  # test_own_loop.py and test_package.py run those of their pages
    assert {each.file for each in blocks("python")} <= {*elsewhere, *RUN, *IMPORTED}


@pytest.mark.parametrize("page", RUN)
def test_its_python_runs(folder: Path, page: str) -> None:
    for block in blocks("python"):
        if block.file == page:
            exec(compile(block.text, page, "exec"), {})
    assert any(folder.glob("*.jsonl"))


@pytest.mark.parametrize("page", IMPORTED)
def test_what_its_python_imports_is_there(page: str) -> None:
    nodes = [node for block in blocks("python") if block.file == page for node in ast.walk(ast.parse(block.text))]
    imported = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported
    exec(compile(ast.Module(imported, []), page, "exec"), {})  # type: ignore[arg-type]


def test_every_setting_that_is_named_is_a_field() -> None:
    named = {each.text.split("=")[0].split(":")[0] for each in spans()}
    settings = {each for each in named if re.fullmatch(rf"(?:{'|'.join(sections())})\.[a-z_0-9]+", each)}
    assert len(settings) > 9
    assert settings <= {*fields()}


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda each: f"{each.file}: {each.text.splitlines()[0]}")
def test_every_recipe_is_right(folder: Path, block: Snippet) -> None:
    (folder / "shown.yaml").write_text(block.text)
    load_recipe(str(folder / "shown.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_link_leads_to_a_file(file: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text())
    assert [each for each in links if not (file.parent / each).exists()] == []


@pytest.mark.parametrize("name", sorted({each.text for each in spans() if re.fullmatch(r"extends: [\w-]+", each.text)}))
def test_what_is_to_be_extended_is_there(folder: Path, name: str) -> None:
    (folder / "shown.yaml").write_text(name)
    load_recipe(str(folder / "shown.yaml"))
