"""A runner for the verbs, and the console script in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from galore.cli.main import app

Galore = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def galore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Galore:
    """`galore ARGUMENTS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments), prog_name="galore")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """The console script in a process of its own, in an empty folder."""
    script = "from galore.cli.entry import main; main()"

    def run(*arguments: str, code: str = script, **environment: str) -> Any:
        command = [sys.executable, "-P", "-c", code, *arguments]
        variables = {**os.environ, **environment}
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60, check=False
        )

    return run
