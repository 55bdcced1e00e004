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
from galore.trainer.record.rundir import RunDir
from galore.trainer.rescue import described
from galore.trainer.run import run_training

Told = Callable[[str], None]
Failures = dict[str, UserError]  # by folder


@dataclass(frozen=True)
class Job:
    """A run, and where it is kept, inside the folder of all of them."""

    folder: str
    loaded: LoadedRecipe


@dataclass(frozen=True)
class Show:
    """Where the user sees what goes on: `console` of each run, `progress` of its data, and `tell` between runs."""

    console: Callable[[LoadedRecipe], Console]
    progress: Progress
    tell: Told


def is_done(directory: Path) -> bool:
    """Whether a run in there has come to its end."""
    return "finished" in RunDir(directory).read_facts()


def run_jobs(
    jobs: Sequence[Job],
    root: Path,
    show: Show,
    after_each: Callable[[Failures], object],
    survives: type[UserError] = RunFailed,
) -> Failures:
    """Run what of `jobs` is not done under `root`; returns what failed, and why.

    Args:
        after_each: called with the failures so far once a run is over.
        survives: failures of this kind are noted, and the next run begins; any other ends it all.

    Raises:
        UserError: a run that is there was another one. Interrupted: by a signal, all saved.
    """
    for job in jobs:
        refuse_missing_extras(job.loaded.recipe)
        refuse_another(root / job.folder, job.loaded)
    failures: Failures = {}
    for number, job in enumerate(jobs, 1):
        directory, line = root / job.folder, f"{number} of {len(jobs)}: {job.folder}"
        if is_done(directory):
            show.tell(f"{line} is done")
            continue
        show.tell(line)
        try:
            resume = RunDir(directory).recipe.is_file()
            run_training(job.loaded, directory, resume, show.console(job.loaded), show.progress)
        except Interrupted:
            raise
        except survives as error:
            failures[job.folder] = error
            show.tell(f"{job.folder} failed: {error.where + ': ' if error.where else ''}{error.what}")
        make_directory(root)  # it may be that the run was refused and left nothing
        try:
            after_each(failures)
        except Exception as error:  # a table or a picture of what there is can be made once more at the end
            show.tell(f"what there is so far could not be told: {described(error)}; the next run begins")
    return failures


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
