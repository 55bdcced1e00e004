"""`galore export`: what was written is told, and what was refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from galore.trainer.common.errors import UserError


def test_export(galore: Any, calls: Any) -> None:
    written = SimpleNamespace(
        folder="/x/out", origin="runs/a/step-7", step=7, bytes=2**20, loads="AutoModelForCausalLM", skipped=()
    )
    calls.replace("galore.trainer.trained.export", export=written)
    shown = galore("export", "runs/a", "out", "--checkpoint", "7")
    assert shown.stdout.startswith("/x/out: 1.00 MiB, from runs/a/step-7\n")
    assert calls.made == [(("runs/a", Path("out"), "7"), {})]


def test_errors_below_reach_the_user(galore: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: Any) -> None:
        raise UserError("is not empty", where="out")

    monkeypatch.setitem(sys.modules, "galore.trainer.trained.export", SimpleNamespace(export=export))
    refused = galore("export", "runs/a", "out")
    assert (refused.exit_code, refused.stderr) == (2, "error: out: is not empty\n")
