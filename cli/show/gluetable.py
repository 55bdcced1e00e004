"""What a fine-tuning on GLUE came to, as a table: one row per task and method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from galore.cli.show.tables import numbers, screen, show_table

if TYPE_CHECKING:
    from galore.trainer.sweep.glue.outcome import Outcome

AS_TEXT = 3  # columns to the left that are no numbers


def show_scores(outcomes: Sequence[Outcome]) -> None:
    """Prints the rows of glue.md; alarms below it."""
    from galore.trainer.sweep.glue.outcome import standings
    from galore.trainer.sweep.glue.sheet import HEAD, rows

    console, found = screen(), standings(outcomes)
    table = Table(*HEAD, box=None)
    numbers(table, range(AS_TEXT, len(HEAD)))
    for row in rows(found):
        table.add_row(*row)
    show_table(console, table)
    for run in (run for each in found for run in each.done if run.collapsed):
        console.print(f"ALARM: {run.cell.folder}: {run.collapsed}", style="bold red", markup=False)
