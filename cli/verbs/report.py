"""`galore report` and `galore web`: what a run's directory says, written anew for people; no model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.trainer.common.errors import UserError, to_write
from galore.trainer.common.printable import printable

if TYPE_CHECKING:
    from galore.trainer.record.rundir import RunDir

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Directories of runs, finished or not.")]
MOST = 40  # runs on one page


def report(
    runs: Runs,
    html: Annotated[bool, typer.Option("--html", help="Write report.html too: curves to point at.")] = False,
) -> None:
    """Write report.md and its plots anew, at any stage of a run."""
    from galore.trainer.record.shown.report import write_report

    for run in _opened(runs).values():
        typer.echo(printable(str(write_report(run))))
        if html:
            _write({str(run.root): run}, run.root / "report.html")


def web(
    runs: Runs,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Where to write it: RUN/report.html, or comparison.html of several, if left out."
        ),
    ] = None,
) -> None:
    """One HTML page of a run, or of several beside each other; it needs no server and loads nothing."""
    from galore.trainer.common.durable import refuse_unwritable
    from galore.trainer.common.reading import user_path

    found = _opened(runs)
    if output is not None:
        refuse_unwritable(user_path(output), "--output")
    file = next(iter(found.values())).root / "report.html" if len(found) == 1 else Path("comparison.html")
    _write(found, file if output is None else user_path(output))


def _opened(names: list[str]) -> dict[str, RunDir]:
    from galore.trainer.common.reading import user_path
    from galore.trainer.record.rundir import RunDir

    found = {name.rstrip("/"): RunDir.open(user_path(name)) for name in names}
    if len(found) > MOST:
        raise UserError(
            f"{len(found)} runs, and a page holds {MOST}", where="RUN...", fix="name fewer, or several pages"
        )
    return found


def _write(found: dict[str, RunDir], file: Path) -> None:
    from galore.trainer.common.durable import replace_file
    from galore.trainer.record.history import History
    from galore.trainer.record.shown.webpage import page

    text = page({name: History.read(run) for name, run in found.items()})
    try:
        replace_file(file, text)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise UserError(what, where=str(file), fix=f"{to_write(error)}, or name another --output") from error
    typer.echo(printable(str(file)))
