"""`galore finetune-glue` below its command line: the runs that are missing, and what the folder holds after each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.glue.prepare import check_splits
from galore.trainer.models.pretrained import locate
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.glue import table
from galore.trainer.sweep.glue.grid import task_of, trial_of
from galore.trainer.sweep.glue.plot import draw
from galore.trainer.sweep.glue.standing import differences
from galore.trainer.sweep.glue.submission import check_tests
from galore.trainer.sweep.glue.targets import fitted
from galore.trainer.sweep.jobs import Failures, Show, run_trials
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Sweep, beside
from galore.trainer.sweep.table import write

TITLE = "Fine-tuning on GLUE"


def finetune(
    trials: Sequence[Trial], root: Path, resume: bool, show: Show, tests: bool = False
) -> tuple[Sweep, Failures]:
    """Run what of `trials` is not done under `root`; write glue.md, glue.json and glue.png there after each.

    A run that fails, be it for its data, does not stop the others.

    Args:
        tests: the test splits will be answered, and have to be there.

    Returns:
        What every run in the folder came to, those of earlier calls included, and what failed now.

    Raises:
        UserError: runs are there without `resume`, or they were others; a model is nowhere or has no such modules, no
            data for any task, or bad input of the only task. Interrupted: by a signal, all saved.
    """
    if not resume:
        _refuse_begun(trials, root)
    _refuse_missing(trials)
    if tests:
        check_tests(trials)
    trials = fitted(trials, show.tell)
    more = beside(root, trials, 2, trial_of, differences)

    def written(found: Sweep) -> None:
        write(root, "glue", table.markdown(TITLE, found), table.as_objects(found), partial(draw, found.compared, TITLE))

    survives = UserError if len({task_of(trial) for trial in trials}) > 1 else RunFailed
    return run_trials(trials, more, root, show, written, "the same command with --resume goes on", survives)


def _refuse_begun(trials: Sequence[Trial], root: Path) -> None:
    begun = [trial.folder for trial in trials if RunDir(root / trial.folder).recipe.is_file()]
    if begun:
        fix = "add --resume to go on with it, or choose another --output-dir"
        raise UserError(f"already holds a run of {begun[0]}", where=str(root), fix=fix)


def _refuse_missing(trials: Sequence[Trial]) -> None:
    """Raise UserError before anything is written unless each model is there, and the data of one task at least."""
    for name, base_dir in {(str(trial.recipe.model.name_or_path), trial.loaded.base_dir) for trial in trials}:
        locate(name, base_dir)
    sources = {(task_of(trial), str(trial.recipe.data.path), trial.loaded.base_dir): trial for trial in trials}
    errors = list[UserError]()
    for trial in sources.values():
        try:
            check_splits(trial.recipe, trial.loaded.base_dir)
        except UserError as error:
            errors.append(error)
    if len(errors) == len(sources):
        raise errors[0]
