"""`galore finetune-glue` below its command line: the runs that are missing, and what all of them came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from galore.trainer.common.durable import replace_file
from galore.trainer.common.errors import Interrupted, RunFailed, UserError
from galore.trainer.data.glue.prepare import check_splits
from galore.trainer.models.pretrained import locate
from galore.trainer.record.rundir import RunDir
from galore.trainer.sweep.glue import sheet
from galore.trainer.sweep.glue.grid import Cell
from galore.trainer.sweep.glue.outcome import Outcome, outcome, standings
from galore.trainer.sweep.glue.picture import draw
from galore.trainer.sweep.jobs import Failures, Job, Show, run_jobs

TITLE = "Fine-tuning on GLUE"


def finetune(cells: Sequence[Cell], root: Path, resume: bool, show: Show) -> tuple[list[Outcome], Failures]:
    """Run what of `cells` is not done under `root`; write glue.md, glue.json and glue.png there after each.

    A run that fails, be it for its data, does not stop the others.

    Returns:
        What every one of `cells` came to, and what failed.

    Raises:
        UserError: runs are there without `resume`, or they were others; a model that is nowhere, no data for any task,
            or bad input of the only task. Interrupted: by a signal, all saved.
    """
    if not resume:
        _refuse_begun(cells, root)
    _refuse_missing(cells)
    jobs = [Job(cell.folder, cell.loaded) for cell in cells]

    def write(failures: Failures) -> list[Outcome]:
        found = [outcome(cell, root, failures[cell.folder].what if cell.folder in failures else "") for cell in cells]
        _write(found, root)
        return found

    try:
        failures = run_jobs(jobs, root, show, write, survives=UserError if _tasks(cells) > 1 else RunFailed)
    except Interrupted as error:
        write({})
        raise Interrupted(error.what, where=error.where, fix="the same command with --resume goes on") from error
    return write(failures), failures


def _refuse_begun(cells: Sequence[Cell], root: Path) -> None:
    begun = [cell.folder for cell in cells if RunDir(root / cell.folder).recipe.is_file()]
    if begun:
        fix = "add --resume to go on with it, or choose another --output-dir"
        raise UserError(f"already holds a run of {begun[0]}", where=str(root), fix=fix)


def _refuse_missing(cells: Sequence[Cell]) -> None:
    """Raise UserError, before anything is written, unless each model is there, and the data of one task at least."""
    for name, base_dir in {(str(cell.recipe.model.name_or_path), cell.loaded.base_dir) for cell in cells}:
        locate(name, base_dir)
    sources = {(cell.task, str(cell.recipe.data.path), cell.loaded.base_dir): cell for cell in cells}
    errors = list[UserError]()
    for cell in sources.values():
        try:
            check_splits(cell.recipe, cell.loaded.base_dir)
        except UserError as error:
            errors.append(error)
    if len(errors) == len(sources):
        raise errors[0]


def _tasks(cells: Sequence[Cell]) -> int:
    return len({cell.task for cell in cells})


def _write(found: Sequence[Outcome], root: Path) -> None:
    best = standings(found)
    replace_file(root / "glue.md", sheet.markdown(TITLE, found))
    replace_file(root / "glue.json", json.dumps(sheet.as_objects(found), indent=2) + "\n")
    with suppress(ImportError):  # the table says all of it
        if any(each.done for each in best):
            replace_file(root / "glue.png", draw(best, TITLE))
