"""Runs one after the other: what is done is passed over, what broke off goes on, what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from galore.trainer.common.durable import make_directory
from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.data.batch import Progress
from galore.trainer.recipe.extras import refuse_missing_extras
from galore.trainer.recipe.load import LoadedRecipe, recipe_of_run
from galore.trainer.recipe.schema.resume import changed_mathematics
from galore.trainer.record.metrics import Console
from galore.trainer.record.report import is_reported, write_report
from galore.trainer.record.rundir import RunDir
from galore.trainer.rescue import described
from galore.trainer.run import run_training
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Beside, Sweep, sweep

Failures = dict[str, UserError]  # by folder


@dataclass(frozen=True)
class Show:
    """Where the user sees what goes on: `console` of each run, `progress` of its data, and `tell` between runs."""

    console: Callable[[LoadedRecipe], Console]
    progress: Progress
    tell: Callable[[str], None]


def is_done(directory: Path) -> bool:
    """Whether a run in there has come to its end."""
    return "finished" in RunDir(directory).read_facts()


def _report_anew(run: RunDir, show: Show) -> None:
    """Write the report of a finished run that has none, as where the disk refused it at its end."""
    if is_reported(run, str(run.read_facts()["finished"])):
        return
    try:
        write_report(run)
    except UserError as error:
        show.tell(str(error))


def run_trials(
    trials: Sequence[Trial],
    more: Sequence[Beside],
    root: Path,
    show: Show,
    write: Callable[[Sweep], object],
    go_on: str,
    survives: type[UserError] = RunFailed,
) -> tuple[Sweep, Failures]:
    """Run what of `trials` is not done under `root`; returns what all came to, and what failed, and why.

    Args:
        more: the runs that lie there beside them.
        write: called with all of them once a run is over, and at the end.
        go_on: what a person does after a signal.
        survives: failures of this kind are noted, and the next run begins; any other ends it all.

    Raises:
        UserError: a run that is there was another one. Interrupted: by a signal, all saved.
    """
    for trial in trials:
        refuse_missing_extras(trial.recipe)
        refuse_another(root / trial.folder, trial.loaded)
    failures: Failures = {}

    def written() -> Sweep:
        found = sweep(trials, more, root, {folder: error.what for folder, error in failures.items()})
        write(found)
        return found

    for number, trial in enumerate(trials, 1):
        directory, line = root / trial.folder, f"{number} of {len(trials)}: {trial.folder}"
        if is_done(directory):
            show.tell(f"{line} is done")
            _report_anew(RunDir(directory), show)
            continue
        show.tell(line)
        try:
            resume = RunDir(directory).recipe.is_file()
            run_training(trial.loaded, directory, resume, show.console(trial.loaded), show.progress)
        except Interrupted as error:
            written()
            raise Interrupted(error.what, where=error.where, fix=go_on) from error
        except survives as error:
            failures[trial.folder] = error
            show.tell(f"{trial.folder} failed: {error.where + ': ' if error.where else ''}{error.what}")
        make_directory(root)  # it may be that the run was refused and left nothing
        try:
            written()
        except Exception as error:  # a table or a plot of what there is can be made once more at the end
            show.tell(f"what there is so far could not be told: {described(error)}; the next run begins")
    return written(), failures


def refuse_another(directory: Path, loaded: LoadedRecipe) -> None:
    """Raise UserError if `directory` holds the run of a recipe that computes something else."""
    file = RunDir(directory).recipe
    if not file.is_file():
        return
    other = changed_mathematics(recipe_of_run(file), loaded.recipe)
    if other:
        raise UserError(
            f"holds a run of another recipe: {'; '.join(other)}",
            where=str(directory),
            fix="choose another --output-dir, or move that run away",
        )
