"""What messages tell one to write exists: settings, verbs, options and targets of make that the code names in its texts."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from snippets import ROOT

from galore.cli.main import app
from galore.trainer.recipe.explain.fields import fields, sections

FILES = sorted(path for floor in ("cli", "trainer", "kernels") for path in (ROOT / floor).rglob("*.py"))
# files, layers and a key of others, which look alike
NO_SETTINGS = r"train\.accumulation|model\.safetensors|model\.layers|model\.embed_tokens|data\.js|optim\.fused"
OF_OTHERS = {
    "--upgrade",
    "--outtype",
    "--logdir",
    "--max-restarts",
    "--job",
    "--nproc-per-node",
}  # of pip, torchrun and the like


def texts(path: Path) -> list[str]:
    """Strings of more than one word, the values in f-strings left out; and what `where=` names, which conversions do not:
    single names there are keys of others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    named = r"(?!)" if path.parent.name == "convert" else r"\w+\.\w+"
    return [each for each in strings if " " in each.strip() or re.fullmatch(named, each)]


@cache
def verbs() -> dict[str, Any]:
    """Every verb by its words, `recipes show` too."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        found[name] = command
        waiting += [(f"{name} {each}".strip(), inner) for each, inner in getattr(command, "commands", {}).items()]
    return found


OPTIONS = {name for verb in verbs().values() for each in verb.params for name in each.opts + each.secondary_opts}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_its_texts_name_exists(path: Path) -> None:
    said = "\n".join(texts(path))
    named = set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(sections())})\.[a-z][a-z_0-9]+\b(?![/(-]|\.\w)", said))
    if path.name == "aliases.py":  # keys of others
        named = set()
    assert {each for each in named if not re.fullmatch(NO_SETTINGS, each)} <= set(fields())
    for words in re.findall(r"`galore ([a-z][a-z -]*?)(?: [^a-z-][^`]*)?`", said):
        first = words.split()[0]
        assert first in verbs(), words
        assert not hasattr(verbs()[first], "commands") or " ".join(words.split()[:2]) in verbs(), words
    if path.is_relative_to(ROOT / "cli") or path.is_relative_to(ROOT / "trainer"):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", said)) <= {*OPTIONS, "--help", *OF_OTHERS}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in re.findall(r"`make ([a-z-]+)", said))
