"""What stands in for the trainer: the verbs hand over what they were given, and print what they get back."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest


class Calls:
    """Stands in for the trainer's modules and keeps what they were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._monkeypatch = monkeypatch

    def replace(self, module: str, answer: Any = None, **more: Any) -> None:
        """Make the functions named in `more` record their call and return the value given for them."""
        functions = {name: self._recorder(value) for name, value in more.items()}
        self._monkeypatch.setitem(sys.modules, module, SimpleNamespace(**functions))

    def _recorder(self, answer: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.made.append((arguments, named))
            return answer

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)
