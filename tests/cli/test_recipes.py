"""`galore recipes`: list, show, copy, validate, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def test_validate_reports_every_file(galore: Any) -> None:
    Path("a.yaml").write_text("lr: 1")
    Path("b.yaml").write_text("")
    result = galore("recipes", "validate", "a.yaml", "demo", "b.yaml", "c.yaml")
    assert result.exit_code == 2
    assert result.stdout == "demo: ok\n"
    assert "error: a.yaml: 3 errors\n  a.yaml:1:1: lr: unknown key\n" in result.stderr
    assert "b.yaml: is empty" in result.stderr
    assert "c.yaml: no such file" in result.stderr


def test_schema(galore: Any) -> None:
    printed = galore("recipes", "schema").stdout
    assert printed == SCHEMA_FILE.read_text(encoding="utf-8")
    assert galore("recipes", "schema", "--output", "s.json").exit_code == 0
    assert json.loads(Path("s.json").read_text(encoding="utf-8")) == json.loads(printed)
