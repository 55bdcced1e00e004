"""What a sweep came to on a screen: the table of a fine-tuning on GLUE, and what a table does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from galore.cli.show.tables import numbers, say, screen, show_table

if TYPE_CHECKING:
    from galore.trainer.sweep.outcome import Sweep

AS_TEXT = 3  # columns to the left that are no numbers


def show_scores(sweep: Sweep) -> None:
    """Prints the rows of glue.md; alarms and what is missing below it."""
    from galore.trainer.sweep.glue.standing import standings
    from galore.trainer.sweep.glue.table import HEAD, rows

    console, found = screen(), standings(sweep.compared)
    table = Table(*HEAD, box=None)
    numbers(table, range(AS_TEXT, len(HEAD)))
    for row in rows(found):
        table.add_row(*row)
    show_table(console, table)
    for run in (run for each in found for run in each.done if run.collapsed):
        console.print(f"ALARM: {run.trial.folder}: {run.collapsed}", style="bold red", markup=False)
    show_missing(sweep)


def show_missing(sweep: Sweep) -> None:
    """The runs that a table does not have, and why."""
    for folder, why in sweep.undone.items():
        say(f"{folder}: {why}", hanging="  ")
    for folder, why in sweep.apart.items():
        say(f"not compared: {folder}: {why}", hanging="  ")
