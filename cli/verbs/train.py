"""`galore train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, Recipe
from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import user_path

if TYPE_CHECKING:
    from galore.trainer.recipe.load import LoadedRecipe
    from galore.trainer.record.callbacks import Callbacks
    from galore.trainer.record.metrics import Console


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Where the run is kept.", show_default="runs/ and the recipe's name; a run's own folder"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in there, or start it if there is none yet.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Begin with the machine's details, too.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the recipe, what is trained, and tokens, disk and time; then leave."),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="With --dry-run: the card to plan for, such as rtx3090.", show_default="the one here, or rtx4090"
        ),
    ] = None,
) -> None:
    """Carry out a recipe: pretrain, or train on, a causal language model.

    Ctrl-C saves and stops within one step; a second one leaves at once.
    Exit codes: 0 done, 1 failed, 2 bad input, 75 stopped and saved.
    """
    from galore.trainer.recipe.load import load_recipe

    if gpu is not None and not dry_run:
        raise UserError(
            "chooses the card that a dry run plans for", where="--gpu", fix="add --dry-run, or leave it out"
        )
    loaded = load_recipe(recipe, overrides or [])
    if dry_run:
        from galore.cli.show.dryrun import show_dry_run
        from galore.trainer.machine.cards import card_or_default

        command = ["galore", "profile-memory", recipe, *(overrides or []), *(["--gpu", gpu] if gpu else [])]
        show_dry_run(loaded, card_or_default(gpu).name, shlex.join(command))
        return

    carry_out(loaded, output_dir or own_folder(recipe, loaded.name), resume, verbose)


def carry_out(
    loaded: LoadedRecipe,
    output_dir: Path,
    resume: bool,
    verbose: bool = False,
    console: Console | None = None,
    callbacks: Callbacks | None = None,
) -> None:
    """The run, in a process that is prepared for it; what it shows goes to `console`, or to standard output."""
    from galore.trainer.machine.process import ask_for_expandable_segments, import_libraries, prepare_process

    prepare_process()  # before torch is imported
    ask_for_expandable_segments(loaded.recipe.train.expandable_segments)
    import_libraries()

    from galore.cli.show.console import make_console
    from galore.cli.show.nextcommands import next_commands
    from galore.cli.show.preparing import preparing
    from galore.trainer.record.rundir import RunDir
    from galore.trainer.run import run_training

    console = console or make_console(loaded.recipe.log, verbose=verbose)
    with preparing() as progress:
        report = run_training(loaded, output_dir, resume, console, progress, callbacks)
    if report is not None:
        console.message(f"report: {report}")
    console.message(next_commands(RunDir(output_dir), loaded.recipe))


def own_folder(recipe: str, name: str) -> Path:
    """Where a run goes that nobody gave a place: the folder of the run whose recipe.yaml this is, or `runs/NAME`."""
    from galore.trainer.record.rundir import RunDir

    run = RunDir(user_path(recipe).parent)
    return run.root if user_path(recipe) == run.recipe and run.facts.is_file() else Path("runs") / name
