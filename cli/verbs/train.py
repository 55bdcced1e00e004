"""`galore train`."""

from __future__ import annotations

import itertools
import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galore.cli.arguments import Overrides, Recipe, at_home
from galore.trainer.common.errors import Taken, UserError
from galore.trainer.common.reading import user_path
from galore.trainer.machine.process import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from galore.trainer.recipe.load import LoadedRecipe
    from galore.trainer.record.callbacks import Callbacks
    from galore.trainer.record.metrics import Console


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            callback=at_home,
            help="Where the run is kept.",
            show_default="runs/ and the recipe's name, with a number from the second on; a run's own folder",
        ),
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
    from galore.trainer.machine.process import is_first
    from galore.trainer.recipe.load import load_recipe

    if gpu is not None and not dry_run:
        raise UserError(
            "chooses the card that a dry run plans for", where="--gpu", fix="add --dry-run, or leave it out"
        )
    loaded = load_recipe(recipe, overrides or [])
    if dry_run and not is_first():
        return
    if dry_run:
        from galore.cli.show.dryrun import show_dry_run
        from galore.trainer.machine.cards import card_or_default

        command = ["galore", "profile-memory", recipe, *(overrides or []), *(["--gpu", gpu] if gpu else [])]
        show_dry_run(loaded, card_or_default(gpu, loaded.recipe.train.device), command)
        return

    if output_dir is not None:
        carry_out(loaded, output_dir, resume, verbose)
    elif not is_first():  # rank 0 says where
        carry_out(loaded, Path(), resume, verbose)
    else:
        in_own_folder(recipe, loaded, resume, lambda root: carry_out(loaded, root, resume, verbose))


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

    from galore.cli.show.progress.console import make_console
    from galore.cli.show.progress.nextcommands import next_commands
    from galore.cli.show.progress.preparing import preparing
    from galore.trainer.common.errors import Interrupted, RunFailed
    from galore.trainer.follow import follow
    from galore.trainer.parallel.group import RankLost, ToldElsewhere, join
    from galore.trainer.record.rundir import RunDir
    from galore.trainer.run import run_training

    group = join(loaded.recipe.train.device)
    beating = nullcontext() if group is None else group.beating(loaded.recipe.parallel.heartbeat_timeout)
    if group is not None and not group.is_first:
        try:
            with beating:
                follow(loaded, group)
        except (Interrupted, RunFailed, ToldElsewhere) as ended:
            lost = isinstance(ended, RankLost) or isinstance(ended.__cause__, RankLost)
            # Rank 0 tells both; if it is rank 0 that is gone, rank 1 does.
            if isinstance(ended, (Interrupted, ToldElsewhere)) or (lost and group.rank > 1):
                raise typer.Exit(ended.exit_code) from ended
            raise
        return
    console = console or make_console(loaded.recipe.log, verbose=verbose)
    with beating, preparing() as progress:
        report = run_training(loaded, output_dir, resume, console, progress, callbacks, group)
    if report is not None:
        console.message(f"report: {report}")
    console.message(next_commands(RunDir(output_dir), loaded.recipe))


def in_own_folder(recipe: str, loaded: LoadedRecipe, resume: bool, begin: Callable[[Path], object]) -> None:
    """Begin in the run's own folder; in the next one where another run was quicker to begin there."""
    root = own_folder(recipe, loaded, resume)
    while True:
        try:
            begin(root)
            return
        except Taken:
            if resume or processes() > 1:
                raise
            tried, root = root, own_folder(recipe, loaded)
            if root == tried:
                raise


def own_folder(recipe: str, loaded: LoadedRecipe, resume: bool = False) -> Path:
    """Where a run goes that nobody gave a place: the folder of the run that `recipe` is, or `runs/NAME`.

    A second run of a recipe goes to `runs/NAME-2`. With `resume` it is the folder of its only run.

    Raises:
        UserError: there are several to go on with, and which ones.
    """
    from galore.trainer.common.lock import is_held
    from galore.trainer.recipe.shipped import is_shipped
    from galore.trainer.record.belonging import run_of
    from galore.trainer.record.rundir import RunDir

    if not is_shipped(recipe) and (run := run_of(user_path(recipe))) is not None:
        return run.root
    root = Path("runs") / loaded.name
    numbered = (root if number == 1 else root.with_name(f"{root.name}-{number}") for number in itertools.count(1))
    if not resume:
        free = next(path for path in numbered if not RunDir(path).recipe.is_file() and not is_held(RunDir(path).lock))
        if free != root:
            typer.echo(f"{root} holds a run already: this one goes to {free}; --resume goes on with a run")
        return free
    found = _runs_of(root, loaded.origin)
    if len(found) > 1:
        from galore.trainer.record.listing import list_runs

        states = (each for path in found for each in list_runs(path))
        told = "; ".join(f"{each.folder}, {each.state} after step {each.step or 0:,}" for each in states)
        raise UserError(
            f"there are several runs of {loaded.name}: {told or ', '.join(map(str, found))}",
            where="--resume",
            fix=f"name the one that is to go on: galore train {shlex.quote(str(found[-1]))} --resume",
        )
    return next(iter(found), root)


def _runs_of(root: Path, origin: str) -> list[Path]:
    """The runs at `root` and its numbered neighbours, but for those that name another recipe as theirs."""
    from galore.trainer.record.rundir import RunDir

    number = re.compile(rf"{re.escape(root.name)}-(\d{{1,9}})$")
    beside = root.parent.iterdir() if root.parent.is_dir() else ()
    numbered = sorted((int(found[1]), path) for path in beside if (found := number.match(path.name)))
    runs = [path for path in (root, *(path for _, path in numbered)) if RunDir(path).recipe.is_file()]
    return [path for path in runs if path == root or _is_of(path, origin)]


def _is_of(run: Path, origin: str) -> bool:
    """Whether the run in a folder was resolved from that recipe or from its own, however their paths are spelled."""
    from galore.trainer.record.rundir import RunDir

    was = _origin(run)
    return was == origin or Path(was).resolve() in (Path(origin).resolve(), RunDir(run).recipe.resolve())


def _origin(run: Path) -> str:
    """The recipe that the run in a folder was resolved from, as the first line of its own says."""
    from galore.trainer.common.reading import read_bounded
    from galore.trainer.record.rundir import RunDir

    first = read_bounded(RunDir(run).recipe).partition(b"\n")[0]
    return first.decode(errors="replace").strip().removeprefix("# Resolved from ")
