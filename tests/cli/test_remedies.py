"""What a message tells people to do can be done: its commands, options and recipe keys exist, and what it says to write loads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import galore.cli
from galore.cli.main import app
from galore.trainer.recipe.explain.fields import fields, sections
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.shipped import shipped_names

ROOT = Path(galore.cli.__file__).parents[1]
COMMAND = re.compile(r"(`|see: |run |)(?<![\w./-])galore ((?:[a-z]+-)*[a-z]+)((?: [^`\n;:→)]*)?)")
OPTION = re.compile(r"(?<=\s)--[a-z][a-z-]*")
KEY = re.compile(rf"(?<![\w./-])({'|'.join(sections())})\.([a-z_]+)\b(?!\()")
# layers, what is derived, a key of others
OF_OTHERS = {"model.embed_tokens", "model.layers", "model.norm", "train.accumulation", "optim.fused"}
FILES = {"js", "json", "yaml", "md", "safetensors", "py", "jsonl", "tokens", "offsets", "png", "html", "txt"}


def texts() -> Iterator[tuple[str, str]]:
    """(file:line, text) of every string in the sources that is no docstring; what is filled in is `X`."""
    for path in sorted([*(ROOT / "trainer").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inner | docs:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


TEXTS = list(texts())


def test_commands_that_messages_name_exist() -> None:
    root: Any = typer.main.get_command(app)
    wrong, found = [], 0
    for where, text in TEXTS:
        for before, verb, rest in COMMAND.findall(text):
            if not before and verb not in root.commands:  # the name of the project in a sentence
                continue
            found += 1
            command = root.commands.get(verb)
            if command is not None and hasattr(command, "commands"):
                command = command.commands.get(rest.split()[0]) if rest.split() else None
            known = {name for each in command.params for name in each.opts} if command is not None else set()
            missing = [option for option in OPTION.findall(rest) if option not in known | {"--help"}]
            if command is None or missing:
                wrong.append((where, f"galore {verb}{rest}", missing))
    assert wrong == []
    assert found > 15


def test_keys_that_messages_name_exist() -> None:
    named = [
        (where, f"{section}.{key}") for where, text in TEXTS for section, key in KEY.findall(text) if key not in FILES
    ]
    theirs = ("explain/aliases.py", "convert/torchtune.py")  # keys that are asked for in files of others
    named = [each for each in named if each[1] not in OF_OTHERS and not any(file in each[0] for file in theirs)]
    assert [each for each in named if each[1] not in fields()] == []
    assert len(named) > 100


WRITE = re.compile(r"→ (?:write |for example )?((?:\w+\.\w+)=\S+)(?: for an empty value)?$")


@pytest.mark.parametrize(
    "override",
    [
        "lr=1e-3",
        "train.lr=0.001",
        "optim.rnk=4",
        "optim.rank",
        "optim.scale=",
        "max_steps=9",
        "train.hidden_size=64",
        "precision=float32",
    ],
)
def test_an_override_that_is_told_to_be_written_loads(override: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [override])
    told = WRITE.search(str(error.value))
    assert told, str(error.value)
    load_recipe("demo", [told[1]])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.dtype", "bf16"),
        ("optim.method", "galor"),
        ("optim.proj_type", "rsvd"),
        ("optim.target_modules", "mlp"),
        ("optim.state_dtype", "int8"),
        ("train.device", "mps"),
        ("log.report_to", "null"),
        ("optim.rank_pattern", "mlp:0.5"),
        ("optim.lr_scheduler_type", "wsd"),
    ],
)
def test_a_value_that_is_told_to_be_written_loads(path: str, value: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [f"{path}={value}"])
    (problem,) = error.value.problems
    load_recipe("demo", [f"{path}={problem.fix.removeprefix('write ').partition(', with a space')[0]}"])


def test_a_misspelt_recipe_is_told_by_a_name_that_loads() -> None:
    for name in ("dmeo", "llama-60m-galor", "lama-7b-24gb"):
        with pytest.raises(RecipeError, match="did you mean") as error:
            load_recipe(name)
        close = error.value.problems[0].fix.removeprefix("did you mean ").partition("?")[0].split(" or ")
        assert set(close) <= set(shipped_names())
