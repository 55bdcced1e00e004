"""The one place where an error becomes text on stderr and an exit code. Nothing but text for people ever gets there.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a correct run that could not go on (disk full, loss not finite), or a bug, whose traceback is in a file it names |
| 2 | bad input: recipe, option, path |
| 75 | stopped by a signal after the state was saved: `--resume` goes on |
| 130 | interrupted before there was anything to save |
| 141 | the reader of a pipe left before the end of the output |
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from galore.cli.words import VerbGroup
from galore.trainer.common.errors import DISK_FULL, FILE_LIMIT, RunFailed, UserError, system_error
from galore.trainer.common.printable import masked, masked_command, masked_logs, presentable, shortened
from galore.trainer.common.reading import NotReadable
from galore.trainer.machine.process import is_first, processes

if TYPE_CHECKING:
    from galore.trainer.checkpoint.checkpoint import Skipped

BUG = "This is a bug in galore, please report it with {} and what `galore doctor` prints"
HERE = str(Path(__file__).parents[1])
READER_LEFT = 128 + 13  # SIGPIPE
TITLES = {1: "failed", 2: "error", 75: "stopped"}
LONGEST_REASON = 300  # letters
FRAMES = 8  # of a traceback that could be written nowhere
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.ENXIO)
NO_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "memory allocation")  # torch's, without a type of its own
REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space; `galore doctor` shows how much there is"),
    **dict.fromkeys(FORBIDDEN, "choose a place you may read and write"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "name a path whose links end somewhere",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.EFBIG: FILE_LIMIT,
    errno.ENOLCK: "choose a file system with file locks",
}


MEANT = {
    "run": "galore train RECIPE",
    "fit": "galore profile-memory RECIPE --fit FILE",
    "finetune": "galore train finetune-instruct, or for the tasks of GLUE galore finetune-glue RECIPE",
    "pretrain": "galore train RECIPE",
    "resume": "galore train RUN --resume",
    "evaluate": "galore eval RUN",
    "preprocess": "galore prepare RECIPE",
    "tokenize": "galore prepare RECIPE",
    "list": "galore runs, or galore recipes list",
    "memory": "galore profile-memory RECIPE",
}  # verbs of other tools

IN_GROUPS = ("train", "doctor")  # verbs that torchrun may start


class ReportingGroup(VerbGroup):
    """A group of verbs whose errors reach the user as one message each."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        meant = MEANT.get(args[0].lower().replace("-", "").replace("_", ""))
        if meant and args[0] not in self.commands:
            raise UserError("is no verb", where=args[0], fix=f"write {meant}")
        if processes() > 1 and args[0] in self.commands and args[0] not in IN_GROUPS:
            what = f"runs in one process, and torchrun started {processes()}"
            raise UserError(what, where=f"galore {args[0]}", fix="start it without torchrun")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with masked_logs(), reported():
            return super().invoke(ctx)


@contextmanager
def reported() -> Iterator[None]:
    """Turns every error into one message and an exit code; what is for click to tell passes."""
    try:
        yield
    except KeyboardInterrupt:
        show(UserError("interrupted"), "stopped")
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, by a class that moved between versions of typer
            vars(error)["message"] = presentable(str(vars(error).get("message", "")))
            raise
        known = as_user_error(error)
        # what is wrong with a command is so on every rank of a machine
        if known.exit_code != UserError.exit_code or is_first(on_machine=True):
            show(known)
        raise typer.Exit(known.exit_code) from error


def as_user_error(error: Exception) -> UserError:
    """What the user is told of `error`: as it is, what the system refused, that memory ran out, or that it is a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, NotReadable):
        return UserError(str(error.strerror), where=str(error.filename), fix="name a regular file")
    if refused := system_error(error):
        return _of_system(refused, error)
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or any(w in told for w in NO_MEMORY):
        fix = "lower train.micro_batch_size or data.max_length, or free memory; `galore doctor` shows how much there is"
        reason = told[max(told.find(NO_MEMORY[0]), 0) :].partition(". ")[0]  # torch puts its own line of C++ before it
        return RunFailed(f"memory ran out: {reason}", fix=fix)
    return RunFailed(
        f"{type(error).__name__}: {shortened(told, LONGEST_REASON)}", fix=BUG.format(_keep_traceback(error))
    )


def _is_nowhere() -> bool:
    """Whether the folder that this process works in is gone."""
    try:
        return not Path.cwd().is_dir()
    except FileNotFoundError:
        return True


def _of_system(refused: OSError, error: Exception) -> UserError:
    number, where = refused.errno, str(refused.filename or "")
    if number == errno.ENOENT and not Path(where).is_absolute() and _is_nowhere():
        return UserError("the working directory was deleted", fix="cd to a folder that is there")
    if number == errno.ENOMEM:
        return as_user_error(MemoryError(refused.strerror))
    kind = UserError if number in (*FORBIDDEN, *WRONG_PATH) else RunFailed
    if number in DISK_FULL:
        return RunFailed("the disk is full", where=where, fix=REMEDIES[number])
    what = (refused.strerror or os.strerror(number or 0)).lower()
    if number in (*FORBIDDEN, errno.ENAMETOOLONG, errno.ELOOP):
        return kind(what, where=where, fix=REMEDIES[number])
    remedy = REMEDIES.get(number or 0, "see whether the disk, the network or the file is as it should be")
    return kind(f"{what}, {_doing(error)}", where=where, fix=f"{remedy}; details are in {_keep_traceback(error)}")


def _doing(error: Exception) -> str:
    """The innermost function of galore that `error` came through: `while in replace_file of durable.py`."""
    inside = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(HERE)]
    return f"while in {inside[-1].name} of {Path(inside[-1].filename).name}" if inside else "outside of galore"


def _keep_traceback(error: Exception) -> str:
    """The name of a new file that holds the whole traceback. Where none can be written, its end goes to stderr."""
    text = masked("".join(traceback.format_exception(error)))
    try:
        handle, name = tempfile.mkstemp(prefix="galore-", suffix=".traceback.txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"galore {masked_command(sys.argv[1:])}\n\n{text}")
    except OSError:
        typer.echo(presentable("".join(traceback.format_exception(error, limit=-FRAMES, chain=False))), err=True)
        return "the text above"
    return name


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """A line on stderr for each of the first checkpoints that were passed over, and why."""
    from galore.trainer.checkpoint.checkpoint import told

    for line in told(skipped):
        typer.echo(presentable(line), err=True)


def show(error: UserError, title: str = "") -> None:
    """Prints one error to stderr, in colours on a terminal; nothing to one that vanished, and the exit code stays."""
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble((f"{title or TITLES.get(error.exit_code, 'error')}: ", "bold red"), str(error))
    text.highlight_regex(r"→ .*", "cyan")
    with suppress(OSError):
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)
