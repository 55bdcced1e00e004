"""A constructor takes the fields of a dataclass as its own, and says what each means."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import pytest

from galore.trainer.optim.keywords import WIDTH, manual, taking


@dataclass(frozen=True)
class Settings:
    lr: float = field(default=0.5, metadata={"description": "Step size; null is true"})
    _: KW_ONLY
    gap: int = field(default=3, metadata={"description": "Steps " + "between refreshes " * 12})


class Made:
    @taking(Settings)
    def __init__(self, params: Iterable[Any], settings: Settings) -> None:
        """Made for a test."""
        self.params, self.settings = params, settings


def test_fields_are_keywords_with_their_defaults() -> None:
    assert Made("p").settings == Settings()
    assert Made("p", 0.1, gap=4).settings == Settings(0.1, gap=4)
    assert Made(params="p", lr=0.2).params == "p"


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(TypeError, match="'gapp'"):
        Made("p", gapp=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Made("p", 0.1, 4)  # type: ignore[misc]


def test_the_signature_is_told() -> None:
    assert str(inspect.signature(Made)).startswith("(params: ")
    told = inspect.signature(Made.__init__).parameters
    assert list(told) == ["self", "params", "lr", "gap"]
    assert (told["lr"].default, told["gap"].kind) == (0.5, inspect.Parameter.KEYWORD_ONLY)


def test_the_manual_speaks_python_and_keeps_to_its_width() -> None:
    lines = manual(Settings).splitlines()
    assert lines[0] == "    lr: Step size; None is True."
    assert lines[1].startswith("    gap: Steps between")
    assert lines[2].startswith(" " * 8 + "refreshes")
    assert max(map(len, lines)) <= WIDTH
    assert inspect.getdoc(Made.__init__) == f"Made for a test.\n\nArgs:\n{manual(Settings)}"
