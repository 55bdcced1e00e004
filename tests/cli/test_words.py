"""What a verb cannot read is told with the value that was given, once, and where it is that option's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from galore.cli.words import tell_value


@pytest.mark.parametrize(
    ("said", "words", "told"),
    [
        ("is no number", ["--n", "many"], "is no number, got 'many'"),
        ("is no number.", ["--n=1", "--n=many"], "is no number, got 'many'"),
        ("Value error, 'many' is no number", ["--n", "many"], "'many' is no number"),
        ("is no number", ["--n"], "is no number"),
        ("is no number", ["--other", "1", "--", "--n", "many"], "is no number"),
    ],
)
def test_a_value_is_told_once_and_only_where_it_is_the_options(said: str, words: list[str], told: str) -> None:
    option: Any = SimpleNamespace(opts=["--n"])
    error = typer.BadParameter(said, param=option)
    tell_value(error, words)
    assert error.message == told
