"""The errors a user can cause, or must act on: each says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex

from galore.trainer.common.printable import presentable

_WORD = r"(?:'[^']*'|[^\s'])+"
_COMMAND = re.compile(
    rf"galore train (?P<recipe>{_WORD})(?P<settings>(?: (?=\S*=){_WORD})*)(?: --output-dir (?P<folder>{_WORD}))? --resume"
)
_ARGUMENTS = {"--output-dir": "output_dir", "--resume": "resume=True"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FILE_LIMIT = "raise the limit of file sizes, ulimit -f unlimited, or choose another file system"  # for EFBIG
_OF_RUST = re.compile(r"\(os error (\d+)\)")


class UserError(Exception):
    """Bad input. The CLI prints it as one clear message and exits with code 2.

    As text it is fit for a terminal and a log, whatever it quotes.

    Args:
        what: what is wrong, one sentence.
        where: file, file:line, or recipe key it concerns.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return presentable(f"{head}\n  → {self.fix}" if self.fix else head)


class Taken(UserError):  # noqa: N818
    """Another run is in the folder where one was to begin."""


class RunFailed(UserError):  # noqa: N818 - it names an outcome, as the exit code does
    """A correct run that could not go on (non-finite loss, full disk). Exit code 1."""

    exit_code = 1


class Ended(RunFailed):
    """The loop's own end of a run: what is whole is saved, and the message says where."""


class Interrupted(UserError):  # noqa: N818
    """A signal stopped the run after its state was saved; `--resume` goes on. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


def in_python(error: UserError) -> UserError:
    """The same error, what to do said to somebody who called `galore.train`, not to one who typed `galore train`."""
    told = _COMMAND.sub(_call, error.fix)
    for option, argument in _ARGUMENTS.items():
        told = told.replace(option, argument)
    error.fix = told
    return error


def _call(command: re.Match[str]) -> str:
    """`galore train R K=V --output-dir D --resume` as a call; the folder may be left out."""
    given = [json.dumps(each, ensure_ascii=False) for each in shlex.split(command["recipe"] + command["settings"])]
    folders = [f"output_dir={json.dumps(each, ensure_ascii=False)}" for each in shlex.split(command["folder"] or "")]
    return f"galore.train({', '.join([*given, *folders, 'resume=True'])})"


def system_error(error: BaseException) -> OSError | None:
    """What the system refused, if `error` tells of that. Libraries in Rust tell it in words, by types of all kinds."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    told = _OF_RUST.search(str(error))
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


def to_write(refused: OSError, where: str = "it") -> str:
    """What to do so that a file can be written which was `refused`; `where`: what is to be made writable."""
    if refused.errno == errno.EFBIG:
        return FILE_LIMIT
    return "free some space there" if refused.errno in DISK_FULL else f"make {where} writable"


def described(error: BaseException) -> str:
    """What is wrong, in one line that names its kind where it is no message for a user."""
    if isinstance(error, UserError):
        return f"{error.where}: {error.what}" if error.where else error.what
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
