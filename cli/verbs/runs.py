"""`galore runs`: what was trained here, how far it is, and what of it can go on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.common.format import age, count, size
from galore.trainer.common.printable import LONGEST_CELL, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from galore.trainer.record.listing import Listed

DEFAULT = "runs"
HEAD = ("run", "method", "model", "steps", "loss", "on disk", "age", "state")


def runs(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where to look, folders in it too.")] = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End as the run FOLDER did: 0 finished, 75 interrupted, go on with --resume; 1 otherwise.",
        ),
    ] = False,
) -> None:
    """The runs below a folder: method, size of the model, steps done and planned, last loss, room on disk, how long ago
    the last step was, state."""
    from galore.trainer.common.reading import user_path
    from galore.trainer.record.listing import list_runs

    root = user_path(folder)
    if not root.is_dir() and folder != DEFAULT:
        raise UserError("is no folder", where=folder, fix="name the folder that holds runs, or one above it")
    found = list_runs(root)
    if exit_code:
        _end_as([each for each in found if each.folder.samefile(root)], folder, as_json)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found], indent=2))
    elif found:
        _show(found, root)
    else:
        typer.echo(f"there is no run at or below {printable(folder)}; `galore train demo` makes one")


def _end_as(itself: list[Listed], folder: str, as_json: bool) -> NoReturn:
    """What torchrun does not pass on: it ends with 1 wherever a process ends with anything but 0."""
    if not itself:
        raise UserError("is no run itself", where=folder, fix="name the directory of the run that --exit-code is about")
    typer.echo(json.dumps(itself[0].as_json(), indent=2) if as_json else _state(itself[0]))
    raise typer.Exit({"finished": 0, "interrupted": Interrupted.exit_code}.get(itself[0].state, RunFailed.exit_code))


def _show(found: list[Listed], root: Path) -> None:
    """The table; without the size of the models where that makes it fit."""
    from galore.cli.show.tables import screen, show_table

    rows = [_cells(each, root) for each in found]
    show_table(screen(), _table(HEAD, rows), _table(_narrowed(HEAD), map(_narrowed, rows)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from galore.cli.show.tables import numbers

    table = Table(*head, box=None)
    for row in rows:
        table.add_row(*(Text(shortened(printable(cell), LONGEST_CELL)) for cell in row))
    numbers(table, range(2, len(head) - 1))
    return table


def _narrowed(row: Sequence[str]) -> list[str]:
    """A row without the size of its model."""
    return [cell for index, cell in enumerate(row) if index != HEAD.index("model")]


def _cells(run: Listed, root: Path) -> tuple[str, ...]:
    name = str(run.folder.relative_to(root)) if run.folder != root else str(root)
    done, planned = ("?" if number is None else f"{number:,}" for number in (run.step or 0, run.total_steps))
    return (
        name,
        run.method or "?",
        "?" if run.parameters is None else count(run.parameters),
        f"{done}/{planned}",
        "" if run.loss is None else f"{run.loss:.4f}",
        size(run.bytes),
        "" if run.written is None else age(time.time() - run.written),
        _state(run),
    )


def _state(run: Listed) -> str:
    if run.problem:
        return f"{run.state}: {run.problem}"
    more = [f"resumable after {run.resumes_after:,}"] if run.resumes_after is not None else []
    return ", ".join([run.state, *more, *(["stopped early"] if run.stopped_early else [])])
