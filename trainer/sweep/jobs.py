"""Runs one after the other: what is done is passed over, what broke off goes on, what fails does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from galore.trainer.common.durable import make_directory
from galore.trainer.common.errors import Interrupted, RunFailed, UserError, described
from galore.trainer.data.batch import Progress
from galore.trainer.machine.signals import take_signal
from galore.trainer.recipe.extras import refuse_missing_extras
from galore.trainer.recipe.load import LoadedRecipe, recipe_of_run
from galore.trainer.recipe.schema.resume import changed_mathematics
from galore.trainer.record.callbacks import Callbacks
from galore.trainer.record.metrics import Console
from galore.trainer.record.rundir import RunDir
from galore.trainer.record.shown.report import is_reported, write_report
from galore.trainer.run import run_training
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Beside, Sweep, failed, sweep
from galore.trainer.sweep.prune import note, pruned, pruner

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
    further: Callable[[Sequence[Trial], Sweep], Sequence[Trial]] = lambda trials, found: (),
    prune: bool = False,
) -> tuple[Sweep, Failures]:
    """Run what of `trials` is not done under `root`; returns what all came to, and what failed, and why.

    Args:
        more: the runs that lie there beside them.
        write: called with all of them once a run is over, and at the end.
        go_on: what a person does after a signal.
        survives: failures of this kind are noted, and the next run begins; any other ends it all.
        further: what is to be run once all are over, of which it is given the trials and what they came to.
        prune: whether runs are stopped that cannot become the best of their method.

    Raises:
        UserError: a run that is there was another one. Interrupted: by a signal, all saved.
    """
    jobs = _Jobs(more, root, show, write, go_on, survives, prune)
    while True:
        jobs.run(trials)
        found = jobs.written()
        if not (trials := further(jobs.trials, found)):
            return found, jobs.failures


@dataclass
class _Jobs:
    """The runs of a sweep: all that were asked for so far, what failed of them, and what was passed over, and why."""

    more: Sequence[Beside]
    root: Path
    show: Show
    write: Callable[[Sweep], object]
    go_on: str
    survives: type[UserError]
    prune: bool
    trials: list[Trial] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)
    pruned: dict[str, str] = field(default_factory=dict)

    def run(self, trials: Sequence[Trial]) -> None:
        """Carry out what of them is not done."""
        for trial in trials:
            refuse_missing_extras(trial.recipe)
            refuse_another(self.root / trial.folder, trial.loaded)
        self.trials += trials
        for number, trial in enumerate(trials, 1):
            directory, line = self.root / trial.folder, f"{number} of {len(trials)}: {trial.folder}"
            if is_done(directory):
                self.show.tell(f"{line} is done")
                _report_anew(RunDir(directory), self.show)
                continue
            if self.prune and (why := pruned(trial, self.trials, self.root)):
                self.pruned[trial.folder] = why
                self.show.tell(f"{line} was pruned {why}")
                continue
            self.show.tell(line)
            self._carry_out(trial, directory)
            make_directory(self.root)  # it may be that the run was refused and left nothing
            try:
                self.written()
            except Exception as error:  # a table or a plot of what there is can be made once more at the end
                self.show.tell(f"what there is so far could not be told: {described(error)}; the next run begins")

    def _carry_out(self, trial: Trial, directory: Path) -> None:
        resume = RunDir(directory).recipe.is_file()
        watch = pruner(trial, self.trials, self.root)
        callbacks = Callbacks([watch] if self.prune else [])
        take_signal()  # of what ran before
        try:
            run_training(
                trial.loaded, directory, resume, self.show.console(trial.loaded), self.show.progress, callbacks
            )
        except Interrupted as error:
            if not watch.why:
                self.written()
                raise Interrupted(error.what, where=error.where, fix=self.go_on) from error
            note(directory, watch.why)
            self.show.tell(f"{trial.folder} is pruned {watch.why}")
        except self.survives as error:
            self.failures[trial.folder] = error
            self.show.tell(f"{trial.folder} failed: {error.where + ': ' if error.where else ''}{error.what}")
        if heard := take_signal():  # which only a run with steps to come answers
            self.written()
            raise Interrupted(f"by {heard.name} at the end of {trial.folder}", fix=self.go_on)

    def written(self) -> Sweep:
        """What all came to, once it is written."""
        asked = {trial.folder for trial in self.trials}
        notes = {folder: failed(error.what) for folder, error in self.failures.items()}
        notes |= {folder: f"pruned {why}" for folder, why in self.pruned.items()}
        found = sweep(self.trials, [each for each in self.more if each.folder not in asked], self.root, notes)
        self.write(found)
        return found


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
