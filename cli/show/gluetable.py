"""What a fine-tuning on GLUE came to, as a table: one row per task and method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from galore.trainer.sweep.glue.outcome import Outcome

WIDTH_OF_A_PIPE = 160
AS_TEXT = 3  # columns to the left that are no numbers


def show_table(outcomes: Sequence[Outcome]) -> None:
    """Prints the rows of glue.md; alarms below it."""
    from galore.trainer.sweep.glue.outcome import standings
    from galore.trainer.sweep.glue.sheet import HEAD, rows

    console, found = Console(highlight=False, soft_wrap=False), standings(outcomes)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_PIPE
    table = Table(*HEAD, box=None)
    for column in table.columns[AS_TEXT:]:
        column.justify = "right"
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    for run in (run for each in found for run in each.done if run.collapsed):
        console.print(f"ALARM: {run.cell.folder}: {run.collapsed}", style="bold red", markup=False)
