"""The verbs and their options are a promise: a change of them must be meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from galore.cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden" / "cli.txt"


def surface(command: Any, path: str = "galore") -> Iterator[str]:
    parameters = [_word(each) for each in command.params if each.name not in ("install_completion", "show_completion")]
    yield " ".join([path, *parameters])
    for name, verb in sorted(getattr(command, "commands", {}).items()):
        yield from surface(verb, f"{path} {name}")


def _word(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        word = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    else:
        word = "|".join(parameter.opts) + ("" if getattr(parameter, "is_flag", False) else "=")
    return word if parameter.required else f"[{word}]"


def test_surface() -> None:
    found = "\n".join(surface(typer.main.get_command(app))) + "\n"
    assert found == GOLDEN.read_text(encoding="utf-8"), f"if it is meant, write this to {GOLDEN}:\n{found}"
