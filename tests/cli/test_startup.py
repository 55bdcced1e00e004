"""`galore --help` and everything about recipes answers without importing torch, and at once."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

REPORT = """
import atexit, sys
heavy = ("torch", "transformers", "numpy", "tokenizers", "pyarrow", "datasets", "matplotlib")
atexit.register(lambda: print("imported:", [name for name in heavy if name in sys.modules], file=sys.stderr))
from galore.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["recipes", "list"],
        ["recipes", "show", "demo"],
        ["recipes", "schema"],
        ["recipes", "validate", "llama-7b-lora"],
        ["train", "demo", "optim.rnak=3"],
        ["eval", "nowhere", "--recipe", "dmeo"],
    ],
)
def test_nothing_heavy_is_imported(shell: Any, arguments: list[str]) -> None:
    done = shell(*arguments, code=REPORT)
    assert done.returncode == (2 if arguments[-1] in ("optim.rnak=3", "dmeo") else 0)
    assert "imported: []" in done.stderr


OF_TYPER = """
import typer
app = typer.Typer()
app.command("a")(lambda: None)
app.command("b")(lambda: None)
app()
"""
OF_PYDANTIC = """
import typer, rich, yaml
from pydantic import BaseModel
class Section(BaseModel): rank: int
"""


@pytest.mark.parametrize(
    ("arguments", "beside", "times"),
    [(["--help"], OF_TYPER, 3), (["recipes", "validate", "wrong.yaml"], OF_PYDANTIC, 5)],
)
def test_quick(shell: Any, tmp_path: Path, arguments: list[str], beside: str, times: float) -> None:
    """Processor time, against that of the libraries alone, beside it: a busy core is slower for both."""
    (tmp_path / "wrong.yaml").write_text("training: {lr: 1}\nmodel: {dtype: fp8}\n")

    def seconds(**code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shell(*arguments, **code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ours, theirs = zip(*[(seconds(), seconds(code=beside)) for _ in range(3)], strict=True)
    assert min(ours) < times * min(theirs)


UNPREPARED = """
import os, sys
class Torch:  # stands where torch would be found, and tells what it would have found
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("waits:", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Torch)
from galore.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "demo"],
        ["compare", "demo"],
        ["generate", "runs/one", "--prompt", "Once"],
        ["eval", "runs/one"],
        ["profile-memory", "demo", "--measure"],
    ],
)
def test_what_computes_prepares_its_process_before_torch_is_imported(shell: Any, arguments: list[str]) -> None:
    done = shell(*arguments, code=UNPREPARED)
    assert done.stdout.endswith("waits: 1000\n"), done.stderr


EARLY = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from galore.cli.entry import main
main()
"""


def test_ctrl_c_while_the_verbs_are_imported_is_no_traceback(shell: Any) -> None:
    done = shell("--help", code=EARLY)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped: interrupted\n")
