"""Every error becomes one message and an exit code; the traceback of a bug goes to a file."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from galore.cli import errors
from galore.cli.errors import BUG, ReportingGroup
from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import Interrupted, RunFailed, UserError


def outcome(error: BaseException | Callable[[], None]) -> Result:
    """What a verb that raises `error`, or calls it, ends in."""
    app = typer.Typer(cls=ReportingGroup)

    @app.command("fail")
    def fail() -> None:
        if isinstance(error, BaseException):
            raise error
        error()

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


@pytest.mark.parametrize("number", sorted(set(errno.errorcode) - {errno.EPIPE, errno.ESHUTDOWN}))  # a reader that left
def test_whatever_the_system_refuses_is_one_message(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = outcome(OSError(number, os.strerror(number), "/a/b"))
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 2
    assert "Traceback" not in result.stderr
    assert "/a/b" in result.stderr or number == errno.ENOMEM
    assert "a bug in galore" not in result.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_what_rust_tells_in_words_is_what_the_system_refused(number: int) -> None:
    said = Exception(f"{os.strerror(number)} (os error {number})")
    assert (
        outcome(said).stderr.split(", while")[0]
        == outcome(OSError(number, os.strerror(number))).stderr.split(", while")[0]
    )


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(OSError, match="No such file") as caught:
        Path("recipe.yaml").absolute()
    told = errors.as_user_error(caught.value)
    assert (told.exit_code, str(told)) == (2, "the working directory was deleted\n  → cd to a folder that is there")


def test_a_system_error_tells_what_was_being_done(tmp_path: Path) -> None:
    def fail() -> None:
        replace_file(tmp_path / "no" / "such", b"x")

    result = outcome(fail)
    assert result.exit_code == 2
    private = f".such.{os.getpid()}.tmp"
    assert f"{tmp_path}/no/{private}: no such file or directory, while in __init__ of durable.py" in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 29.1 TiB for an array"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_no_memory_is_one_message(error: Exception) -> None:
    result = outcome(error)
    assert result.exit_code == 1
    assert result.stderr.startswith("failed: memory ran out: ")
    assert "enforce" not in result.stderr
    assert "lower train.micro_batch_size" in result.stderr


def _endless(depth: int = 0) -> None:
    _endless_too(depth)


def _endless_too(depth: int) -> None:
    _endless(depth + 1)


@pytest.mark.parametrize(
    "error", [RuntimeError("oops\n" * 5000), ValueError("o" * 10**6), OSError("unnumbered"), _endless]
)
def test_a_bug_is_one_message_and_its_traceback_in_a_file(
    error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = outcome(error)
    assert result.exit_code == 1
    assert len(result.stderr) < 1000
    (file,) = tmp_path.glob("galore-*.traceback.txt")
    assert f"This is a bug in galore, please report it with {file} and what `galore doctor` prints" in result.stderr
    assert "Traceback (most recent call last)" in file.read_text()


def test_a_traceback_that_no_file_takes_is_told_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", _full_disk)
    result = outcome(_endless)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "report it with the text above" in result.stderr
    assert len(result.stderr.splitlines()) < 40


def _full_disk(**_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_bug_in_the_console_script(shell: Any, tmp_path: Path) -> None:
    code = """
import galore.trainer.recipe.load as load
from galore.cli.main import main
def broken(*arguments): raise RuntimeError("a planted bug")
load.load_recipe = broken
main()
"""
    done = shell("train", "demo", "x.hf_token=hunter2", code=code, TMPDIR=str(tmp_path))
    (file,) = tmp_path.glob("galore-*.traceback.txt")
    assert done.returncode == 1
    assert done.stderr == f"failed: RuntimeError: a planted bug\n  → {BUG.format(file)}\n"
    assert file.read_text().startswith("galore train demo x.hf_token=***\n\nTraceback")
    assert file.stat().st_mode & 0o077 == 0


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


TINY = (
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=1", "model.num_attention_heads=4",
    "data.source=local", "data.path=text.txt", "data.cache_dir=cache", "data.tokenizer_vocab_size=300", "data.max_length=16",
    "optim.rank=4", "train.device=cpu", "train.global_batch_size=2", "train.micro_batch_size=2", "eval.max_tokens=100",
)  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"the quick brown fox number {k} jumps over it" for k in range(400)))


@pytest.mark.usefixtures("text")
def test_a_reader_that_leaves_does_not_end_a_run(shell: Any, tmp_path: Path) -> None:
    asked = ["train", "demo", *TINY, "train.max_steps=2", "--output-dir", "out"]
    done = shell(*asked, code=NO_READER, OMP_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished" in json.loads((tmp_path / "out/run.json").read_text())


@pytest.mark.usefixtures("text")
def test_a_terminal_that_vanishes_leaves_a_saved_run(tmp_path: Path) -> None:
    """As a closed laptop does to a run over ssh: the system sends SIGHUP, and every write fails from then on."""
    settings = [*TINY, "train.max_steps=100000", "train.save_steps=null"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup it is ignored, and that is inherited
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


def test_no_secret_of_a_command_line_or_an_environment_is_told(shell: Any, tmp_path: Path) -> None:
    canary = {"HF_ENDPOINT": "https://me:hunter2@127.0.0.1:9", "HF_TOKEN": "hf_hunter2hunter2hunter2"}
    code = """
import logging
import galore.trainer.recipe.load as load
from galore.cli.main import main
def told(name, overrides):
    logging.getLogger("hub").warning("requesting HEAD %s with %s", HF, TOKEN)
    raise RuntimeError(f"cannot connect to {HF} with {TOKEN}")
from os import environ
HF, TOKEN = environ["HF_ENDPOINT"], environ["HF_TOKEN"]
if "plain" in environ: load.load_recipe = told
main()
"""
    for arguments in (
        ["train", "demo", "x.hf_token=hunter2"],
        ["doctor", "hf_token=hunter2"],
        ["eval", canary["HF_ENDPOINT"]],
    ):
        done = shell(*arguments, code=code, **canary, TMPDIR=str(tmp_path))
        assert done.returncode == 2
        assert "hunter2" not in done.stdout + done.stderr
    done = shell("train", "demo", code=code, plain="1", **canary, TMPDIR=str(tmp_path))
    assert "requesting HEAD https://***@127.0.0.1:9 with ***" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "hunter2" in path.read_text()]


@pytest.mark.parametrize("verb", ["compare", "finetune-glue", "eval", "export", "prepare"])
def test_torchrun_starts_what_trains_and_nothing_else(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    from galore.cli.main import app as verbs

    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        done = CliRunner().invoke(verbs, [verb, "demo"])
        assert done.exit_code == 2
        said.append(done.stderr)
    assert f"galore {verb}: runs in one process, and torchrun started 2" in said[0]
    assert said[1] == ""


def test_what_is_wrong_with_a_command_is_told_once_a_machine_and_a_failure_by_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "IN_GROUPS", ("fail",))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert outcome(UserError("wrong")).stderr == ""
    assert "broken" in outcome(RunFailed("broken")).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("chat",),
        ("eval",),
        ("eval", "data.max_length=32"),
        ("generate", "--prompt", "x"),
        ("generate", "--prompt", "x", "--checkpoint", "best"),
        ("export", "out"),
    ],
    ids=" ".join,
)
def test_a_recipe_in_place_of_its_run_is_told_before_any_network(galore: Any, words: tuple[str, ...]) -> None:
    refused = galore(words[0], "demo", *words[1:])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: demo: is a recipe, and no model\n  → name its run: runs/demo, which")


@pytest.mark.parametrize("words", [("train", "--resume"), ("chat",), ("eval",)], ids=" ".join)
def test_a_run_that_is_not_there_is_told_so(galore: Any, words: tuple[str, ...]) -> None:
    refused = galore(words[0], "runs/nosuch", *words[1:])
    assert refused.exit_code == 2
    told = "error: runs/nosuch: there is no such run or folder\n  → `galore runs` lists the runs\n"
    assert refused.stderr == told
