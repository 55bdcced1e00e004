"""A runner for the verbs, and the console script in a process of its own."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from galore.cli.main import app

TINY = """
extends: demo
model: {hidden_size: 64, intermediate_size: 176, num_hidden_layers: 1, vocab_size: 256}
data: {max_length: 32}
optim: {rank: 8}
train: {global_batch_size: 2, micro_batch_size: 2, device: cpu}
"""
LONG = """
extends: demo
model: {hidden_size: 512, intermediate_size: 1376, num_hidden_layers: 1, vocab_size: 256, max_position_embeddings: 4096}
data: {max_length: 4096}
optim: {rank: 8, method: full}
train: {global_batch_size: 8, micro_batch_size: 8, device: cpu}
"""
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

    def run(*arguments: str, code: str = script, timeout: float = 60, **environment: str) -> Any:
        command = [sys.executable, "-P", "-c", code, *arguments]
        variables = {**os.environ, **environment}
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def traced_recipes(galore: Galore, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiny.yaml and long.yaml in the empty folder that `galore` runs in; no settings of the allocator from outside."""
    gc.freeze()  # every trace collects garbage; what the libraries have made is none
    Path("tiny.yaml").write_text(TINY)
    Path("long.yaml").write_text(LONG)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
