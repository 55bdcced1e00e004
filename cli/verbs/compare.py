"""`galore compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, Recipe, Runs, Seeds, at_home
from galore.cli.show.tables import say
from galore.trainer.common.errors import RunFailed
from galore.trainer.recipe.methods import listed

if TYPE_CHECKING:
    from galore.trainer.recipe.load import LoadedRecipe
    from galore.trainer.record.metrics import Console
    from galore.trainer.sweep.options import Trial


def compare(
    recipe: Recipe,
    overrides: Overrides = None,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "--method",
            metavar="A,B,…",
            help=f"{listed()}. Each may carry settings: galore:optim.rank=32.",
        ),
    ] = "full,galore,lora",
    learning_rates: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,…|auto",
            help="Tried with every method; auto: a grid for each, ten times as high for adapters as for full rank.",
            show_default="the recipe's",
        ),
    ] = None,
    seeds: Seeds = None,
    runs: Runs = None,
    extend: Annotated[
        int,
        typer.Option(min=0, max=20, help="Rates at most to try beyond a method's grid where its best is at the edge."),
    ] = 2,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="Stop runs early that cannot become their method's best rate.")
    ] = True,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            callback=at_home, help="Where the runs and the table are kept.", show_default="runs/compare-RECIPE"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="As it does anyway: go on where it was.")] = False,
) -> None:
    """Train one recipe with several methods, and compare held-out loss, optimizer memory and time.

    Called again it goes on where it was: runs that are done are passed over, one that was broken off is resumed.
    The table has every run in the folder, those of earlier calls too.
    Ctrl-C saves the current run and stops. Exit codes as for galore train: 1 where all runs of a method failed.
    """
    from galore.trainer.sweep.compare.grid import grid

    trials = grid(recipe, overrides or [], methods, learning_rates, seeds, runs)
    if learning_rates is None and (note := _one_rate(trials)):
        typer.echo(note)

    from galore.trainer.machine.process import ask_for_expandable_segments, import_libraries, prepare_process
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    prepare_process()  # before torch is imported
    ask_for_expandable_segments(loaded.recipe.train.expandable_segments)
    import_libraries()

    from galore.cli.show.gluetable import show_losses
    from galore.cli.show.progress.preparing import preparing
    from galore.trainer.recipe.extras import no_plots
    from galore.trainer.sweep.compare.run import compare as run
    from galore.trainer.sweep.compare.standing import without_result
    from galore.trainer.sweep.jobs import Show

    root = output_dir or Path("runs") / f"compare-{loaded.name}"
    with preparing() as progress:
        show = Show(_console, progress, lambda text: say(text, "  ", bold=True))
        found = run(loaded, trials, root, show, extend, prune)
    show_losses(found)
    typer.echo(
        f"wrote {root}/compare.md, compare.json, compare.csv, compare.tex"
        + (", compare.png" if (root / "compare.png").exists() else "")
    )
    if why := no_plots():
        typer.echo(why)
    if methods_failed := without_result(found.compared):
        typer.echo(f"failed: no run of {', '.join(methods_failed)} has a result", err=True)
        raise typer.Exit(RunFailed.exit_code)


def _one_rate(trials: Sequence[Trial]) -> str:
    """The note on several methods of one learning rate, which flatters one of them; empty where they have their own."""
    rates = {each.learning_rate for each in trials}
    if len({each.label for each in trials}) == 1 or len(rates) > 1:
        return ""
    told = "`--learning-rates auto` gives each a grid of its own"
    return f"note: all methods have the recipe's learning rate {rates.pop():g}; {told}"


def _console(loaded: LoadedRecipe) -> Console:
    from galore.cli.show.progress.console import make_console

    return make_console(loaded.recipe.log)
