"""What a sweep came to on a screen: losses of a comparison, scores on GLUE, and what a table does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from galore.cli.show.tables import least_width, numbers, say, screen, show_table

if TYPE_CHECKING:
    from galore.trainer.sweep.outcome import Standing, Sweep

NARROW = ("method", "rate", "held-out\nloss", "tokens", "optimizer", "time", "runs,\ngrid")  # of a comparison
AS_TEXT = 3  # columns to the left that are no numbers


def show_losses(sweep: Sweep) -> None:
    """Prints the rows of compare.md, every learning rate; what is of earlier calls or not done below them."""
    from galore.trainer.sweep.compare.standing import standings
    from galore.trainer.sweep.compare.table import HEAD, row

    found = standings(sweep.compared)
    rows = [row(each, found) for each in found]
    show_table(screen(), _table(HEAD, rows, 1), _table(NARROW, map(_narrowed, rows), 1))
    _show_earlier(found)
    show_missing(sweep)


def _narrowed(row: Sequence[str]) -> list[str]:
    """A row without its perplexity, which the loss tells; error and spread stand below the mean, the place in the grid
    below the runs."""
    method, rate, where, loss, spread, _, *rest, runs = row
    loss = "\n".join([*loss.replace(" ±", "\n±").splitlines(), *([spread] if spread not in ("", "–") else [])])
    return [method, rate, loss, *rest, f"{runs}\n{where}" if where != "only one" else runs]


def _show_earlier(found: Sequence[Standing]) -> None:
    from galore.trainer.sweep.table import of_earlier_calls

    if told := of_earlier_calls(found):
        say(told, hanging="  ")


def show_scores(sweep: Sweep) -> None:
    """Prints the rows of glue.md; alarms and what is missing below it."""
    from galore.trainer.sweep.glue.standing import standings
    from galore.trainer.sweep.glue.table import HEAD, rows

    console, found = screen(), standings(sweep.compared)
    table = _table(HEAD, rows(found), AS_TEXT)
    if least_width(table) > console.width:  # each row becomes a block, which its task alone would not name
        table = _table(["task", *_apart(HEAD)], [[f"{row[0]}, {row[2]}", *_apart(row)] for row in rows(found)], 2)
    show_table(console, table)
    for run in (run for each in found for run in each.done if run.collapsed):
        console.print(f"ALARM: {run.trial.folder}: {run.collapsed}", style="bold red", markup=False)
    _show_earlier(found)
    show_missing(sweep)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> Table:
    table = Table(*head, box=None)
    numbers(table, range(texts, len(head)))
    for row in rows:
        table.add_row(*row)
    return table


def _apart(row: Sequence[str]) -> list[str]:
    """A row without task and method."""
    return [row[1], *row[AS_TEXT:]]


def show_missing(sweep: Sweep) -> None:
    """The runs that a table does not have, and why."""
    for folder, why in sweep.undone.items():
        say(f"{folder}: {why}", hanging="  ")
    for folder, why in sweep.apart.items():
        say(f"not compared: {folder}: {why}", hanging="  ")
