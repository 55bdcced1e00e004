"""What benches take of the project is there: they are tried by hand, and seldom."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def taken(path: Path) -> list[tuple[str, str]]:
    """(module, name) of what a file imports from the project."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return [
        (str(node.module), each.name)
        for node in found
        for each in node.names
        if f"{node.module}.".startswith("galore.")
    ]


@pytest.mark.parametrize("path", sorted(BENCH.rglob("*.py")), ids=lambda path: str(path.relative_to(BENCH)))
def test_every_name_is_there(path: Path) -> None:
    for module, name in taken(path):
        there = importlib.import_module(module)
        assert hasattr(there, name) or importlib.import_module(f"{module}.{name}"), (module, name)
