"""`galore train --dry-run`: what the recipe sets, the parameter table, the bytes of weights and states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table

from galore.cli.show.tables import numbers, say, screen, show_table
from galore.trainer.common.format import count, size

if TYPE_CHECKING:
    from galore.trainer.parameters import DryRun, ParameterRow
    from galore.trainer.recipe.load import LoadedRecipe

REST = (
    "All other settings are defaults; `galore recipes show` with the same arguments prints every one with its meaning."
)


def show_dry_run(loaded: LoadedRecipe) -> None:
    """Prints the recipe before the model is built, so that it is there to read if the model is refused."""
    from galore.trainer.recipe.dump import dump_settings

    header = loaded.text.partition("\n\n")[0]
    for line in [*header.splitlines(), "", *dump_settings(loaded.recipe).splitlines()]:
        say(line, hanging="#     " if line.startswith("#") else "      ")
    typer.echo()
    say(REST)

    from galore.trainer.parameters import dry_run

    planned = dry_run(loaded)
    typer.echo()
    show_table(screen(), parameter_table(planned))
    for note in planned.notes:
        say(f"Note: {note}", hanging="  ")


def parameter_table(planned: DryRun) -> Table:
    """One row per kind of parameter, and their sum."""
    table = Table(
        "parameter", "tensors", "shape", "update", "rank", "count", "weights", "states", "projectors", box=None
    )
    numbers(table, range(1, len(table.columns)))
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
