"""Errors of the user become one message and an exit code; bugs keep their traceback."""

from __future__ import annotations

import errno
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from galore.cli.errors import BUG, ReportingGroup
from galore.trainer.errors import Interrupted, RunFailed, UserError


def outcome(error: BaseException) -> Result:
    """What a verb that raises `error` ends in."""
    app = typer.Typer(cls=ReportingGroup)

    @app.command("fail")
    def fail() -> None:
        raise error

    @app.command("other")
    def other() -> None: ...

    return CliRunner().invoke(app, ["fail"])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("is odd", where="x.yaml:3", fix="make it even"), 2, "error: x.yaml:3: is odd\n  → make it even\n"),
        (UserError("[bold]not markup[/bold] :smile:"), 2, "error: [bold]not markup[/bold] :smile:\n"),
        (RunFailed("went wrong"), 1, "failed: went wrong\n"),
        (Interrupted("saved", fix="go on with --resume"), 75, "stopped: saved\n  → go on with --resume\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 1, "failed: /a/b: the disk is full\n"),
        (OSError(errno.EDQUOT, "Quota exceeded", "/a/b"), 1, "failed: /a/b: the disk is full\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "error: /a/b: permission denied\n"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), 2, "error: /a/b: read-only file system\n"),
        (KeyboardInterrupt(), 130, "stopped: interrupted\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_for_the_user(error: BaseException, code: int, text: str) -> None:
    result = outcome(error)
    assert result.exit_code == code
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "error", [RuntimeError("oops"), ValueError("oops"), OSError(errno.EBADF, "Bad file descriptor")]
)
def test_a_bug_stays_a_bug(error: Exception) -> None:
    result = outcome(error)
    assert result.exit_code == 1
    assert result.exception is error


def test_a_bug_asks_to_be_reported() -> None:
    result = outcome(RuntimeError("oops"))
    assert result.exception is not None
    assert result.exception.__notes__ == [BUG]


def test_traceback_of_a_bug_is_printed(shell: Any) -> None:
    code = """
import galore.trainer.recipe.load as load
from galore.cli.main import main
def broken(*arguments): raise RuntimeError("a planted bug")
load.load_recipe = broken
main()
"""
    done = shell("train", "demo", code=code)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "RuntimeError: a planted bug" in done.stderr
    assert done.stderr.rstrip().endswith(BUG)


NO_READER = """
import os, sys
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
from galore.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "arguments", [["recipes", "schema"], ["--help"], ["doctor"], ["recipes", "show", "demo"]], ids=" ".join
)
def test_a_reader_that_leaves_ends_it_silently(shell: Any, arguments: list[str]) -> None:
    done = shell(*arguments, code=NO_READER)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_that_leaves_does_not_end_a_run(shell: Any, tmp_path: Path) -> None:
    tiny = [
        "model.hidden_size=32",
        "model.num_hidden_layers=1",
        "data.max_length=16",
        "optim.rank=4",
        "train.device=cpu",
    ]
    short = ["train.max_steps=2", "train.global_batch_size=2", "train.micro_batch_size=2", "eval.max_tokens=100"]
    done = shell("train", "demo", *tiny, *short, "--output-dir", "out", code=NO_READER, OMP_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished" in json.loads((tmp_path / "out/run.json").read_text())


def test_a_terminal_that_vanishes_leaves_a_saved_run(tmp_path: Path) -> None:
    """As a closed laptop does to a run over ssh: the system sends SIGHUP, and every write fails from then on."""
    settings = [
        "model.hidden_size=32",
        "model.num_hidden_layers=1",
        "data.max_length=16",
        "optim.rank=4",
        "train.device=cpu",
    ]
    settings += [
        "train.max_steps=100000",
        "train.global_batch_size=2",
        "train.micro_batch_size=2",
        "train.save_steps=null",
    ]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        script = "from galore.cli.entry import main; main()"
        os.execv(
            sys.executable, [sys.executable, "-P", "-c", script, "train", "demo", *settings, "--output-dir", "out"]
        )
    shown = b""
    while b"tok/s" not in shown:  # it trains
        shown += os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert len(list((tmp_path / "out/checkpoints").glob("step-*"))) == 1
    assert (tmp_path / "out/report.md").exists()


@pytest.mark.parametrize(
    "arguments", [["train"], ["trian"], ["train", "demo", "--outputdir", "x"], ["recipes", "copy", "demo"], ["eval"]]
)
def test_wrong_usage(galore: Any, arguments: list[str]) -> None:
    result = galore(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
