"""Carry out a comparison: every run that is not done, one after the other, and what they came to after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from galore.trainer.common.durable import replace_file
from galore.trainer.data.batch import Progress
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.schema.resume import changed_mathematics
from galore.trainer.record.metrics import Console
from galore.trainer.sweep.compare import sheet
from galore.trainer.sweep.compare.grid import Cell
from galore.trainer.sweep.compare.outcome import Outcome, best_of_each, outcome, standings
from galore.trainer.sweep.compare.picture import draw
from galore.trainer.sweep.jobs import Failures, Job, Show, Told, run_jobs


def carry_out(
    recipe: str,
    overrides: Sequence[str],
    cells: Sequence[Cell],
    root: Path,
    make_console: Callable[[LoadedRecipe], Console],
    progress: Progress,
    tell: Told,
) -> list[Outcome]:
    """Run what of `cells` is not done under `root`; write compare.md, compare.json and compare.png there.

    A run that fails is told in the table, and the others go on. Runs that are there are taken up or passed over.

    Raises:
        UserError: a recipe is wrong, or a run that is there was another one. Interrupted: by a signal, all saved.
    """
    base = load_recipe(recipe, overrides)
    # all of them are read, and their errors raised, before the first run
    loaded = [load_recipe(recipe, [*overrides, *cell.overrides(base.recipe.optim)]) for cell in cells]
    for method in dict.fromkeys(cell.method for cell in cells):
        made = load_recipe(recipe, [*overrides, *Cell(method, None, None).overrides(base.recipe.optim)])
        changes = changed_mathematics(base.recipe, made.recipe)
        tell(f"{method}: {', '.join(changes) or f'{base.name} as it is'}")
    jobs = [Job(cell.folder, each) for cell, each in zip(cells, loaded, strict=True)]

    def write(failures: Failures) -> list[Outcome]:
        found = [outcome(cell, root, _reason(failures, cell.folder)) for cell in cells]
        _write(loaded[0].name, found, root)
        return found

    return write(run_jobs(jobs, root, Show(make_console, progress, tell), write))


def _reason(failures: Failures, folder: str) -> str:
    return failures[folder].what if folder in failures else ""


def _write(name: str, found: list[Outcome], root: Path) -> None:
    title = f"{name}: methods compared"
    replace_file(root / "compare.md", sheet.markdown(title, found))
    replace_file(root / "compare.json", sheet.as_json(found))
    best = best_of_each(standings(found))
    with suppress(ImportError):  # the table says all of it
        if best:
            replace_file(root / "compare.png", draw(best, title))
