"""`galore train --dry-run`: the resolved recipe, the parameter table, the bytes of weights and states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from galore.trainer.common.format import count, size

if TYPE_CHECKING:
    from galore.trainer.parameters import DryRun, ParameterRow
    from galore.trainer.recipe.load import LoadedRecipe

WIDTH_OF_A_PIPE = 140


def show_dry_run(loaded: LoadedRecipe) -> None:
    """Prints the recipe before the model is built, so that it is there to read if the model is refused."""
    typer.echo(loaded.text)

    from galore.trainer.parameters import dry_run

    planned = dry_run(loaded)
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_PIPE
    console.print(parameter_table(planned))
    for note in planned.notes:
        console.print(f"Note: {note}", markup=False)


def parameter_table(planned: DryRun) -> Table:
    """One row per kind of parameter, and their sum."""
    table = Table(
        "parameter", "tensors", "shape", "update", "rank", "count", "weights", "states", "projectors", box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in planned.parameters:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(
        "together",
        str(sum(row.tensors for row in planned.parameters)),
        *("", "", ""),
        count(sum(row.count for row in planned.parameters)),
        *(size(sum(getattr(row, f"{kind}_bytes") for row in planned.parameters)) for kind in KINDS),
        style="bold",
    )
    return table


KINDS = ("weight", "state", "projector")


def _cells(row: ParameterRow) -> list[str]:
    shape = " × ".join(str(side) for side in row.shape)
    sizes = [size(getattr(row, f"{kind}_bytes")) for kind in KINDS]
    return [row.name, str(row.tensors), shape, row.update, str(row.rank or ""), count(row.count), *sizes]
