"""`python -m galore` is the console script; an import of it runs nothing."""

from __future__ import annotations

import importlib
import runpy

import pytest

from galore.cli import entry


def test_it_is_the_console_script(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(entry, "main", lambda: called.append("main"))
    importlib.reload(importlib.import_module("galore.__main__"))
    assert called == []
    runpy.run_path(importlib.import_module("galore.__main__").__file__ or "", run_name="__main__")
    assert called == ["main"]
