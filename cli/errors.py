"""The one place where an error becomes text on stderr and an exit code.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a correct run that could not go on (disk full, loss not finite), or a bug, which keeps its traceback |
| 2 | bad input: recipe, option, path |
| 75 | stopped by a signal after the state was saved: `--resume` goes on |
| 130 | interrupted before there was anything to save |
| 141 | the reader of a pipe left before the end of the output |
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from galore.trainer.errors import RunFailed, UserError

if TYPE_CHECKING:
    from galore.trainer.checkpoint import Skipped

BUG = "This is a bug in galore, please report it with the text above and what `galore doctor` prints."
READER_LEFT = 128 + 13  # SIGPIPE
TITLES = {1: "failed", 2: "error", 75: "stopped"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class ReportingGroup(TyperGroup):
    """A group of verbs whose errors reach the user as one message each."""

    def invoke(self, ctx: Any) -> Any:
        with reported():
            return super().invoke(ctx)


@contextmanager
def reported() -> Iterator[None]:
    """Turns the errors a user can act on into a message and an exit code; lets bugs through, with a note."""
    try:
        yield
    except UserError as error:
        show(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        show(UserError("interrupted"), "stopped")
        raise typer.Exit(130) from None
    except OSError as error:
        known = as_user_error(error)
        if known is None:
            raise
        show(known)
        raise typer.Exit(known.exit_code) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        error.add_note(BUG)
        raise


def as_user_error(error: OSError) -> UserError | None:
    """What the system refused, where that is for the user to mend; None for any other OSError."""
    where = str(error.filename or "")
    if error.errno in DISK_FULL:
        return RunFailed(
            "the disk is full", where=where, fix="free some space; `galore doctor` shows how much there is"
        )
    if error.errno in FORBIDDEN:
        return UserError(os.strerror(error.errno).lower(), where=where, fix="choose a place you may read and write")
    return None


def tell_skipped(skipped: Iterable[Skipped]) -> None:
    """One line on stderr for every checkpoint that was passed over, and why."""
    for item in skipped:
        typer.echo(f"skipped {item.path.name}: {item.reason}", err=True)


def show(error: UserError, title: str = "") -> None:
    """Prints one error to stderr, in colours on a terminal; to one that vanished nothing, and the exit code is as it was."""
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble((f"{title or TITLES.get(error.exit_code, 'error')}: ", "bold red"), str(error))
    text.highlight_regex(r"→ .*", "cyan")
    with suppress(OSError):
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)
