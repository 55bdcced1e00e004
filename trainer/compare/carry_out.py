"""Carry out a comparison: every run that is not done, one after the other, and what they came to after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from galore.trainer.compare import sheet
from galore.trainer.compare.grid import Cell
from galore.trainer.compare.outcome import Outcome, best_of_each, outcome, standings
from galore.trainer.compare.picture import draw
from galore.trainer.data.batch import Progress
from galore.trainer.durable import replace_file
from galore.trainer.errors import RunFailed, UserError
from galore.trainer.metrics import Console
from galore.trainer.recipe.load import LoadedRecipe, load_recipe, recipe_from_resolved
from galore.trainer.recipe.resume import changed_mathematics
from galore.trainer.run import run_training
from galore.trainer.rundir import RunDir

Told = Callable[[str], None]


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
    loaded = [load_recipe(recipe, [*overrides, *cell.overrides]) for cell in cells]  # all errors before the first run
    for cell, each in zip(cells, loaded, strict=True):
        _refuse_another(root / cell.folder, each)
    root.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for number, (cell, each) in enumerate(zip(cells, loaded, strict=True), 1):
        directory = root / cell.folder
        if outcome(cell, root).status == "done":
            tell(f"{number} of {len(cells)}: {cell.folder} is done")
            continue
        tell(f"{number} of {len(cells)}: {cell.folder}")
        try:
            resume = RunDir(directory).recipe.is_file()
            run_training(each, directory, resume, make_console(each), progress)
        except RunFailed as error:
            failures[cell.folder] = error.what
            tell(f"{cell.folder} failed: {error.what}")
        _write(loaded[0].name, [outcome(cell, root, failures.get(cell.folder, "")) for cell in cells], root)
    found = [outcome(cell, root, failures.get(cell.folder, "")) for cell in cells]
    _write(loaded[0].name, found, root)
    return found


def _refuse_another(directory: Path, loaded: LoadedRecipe) -> None:
    file = RunDir(directory).recipe
    if not file.is_file():
        return
    other = changed_mathematics(recipe_from_resolved(file.read_text(encoding="utf-8"), str(file)), loaded.recipe)
    if other:
        raise UserError(
            f"holds a run of another recipe: {'; '.join(other)}",
            where=str(directory),
            fix="compare in another --output-dir, or move that run away",
        )


def _write(name: str, found: list[Outcome], root: Path) -> None:
    title = f"{name}: methods compared"
    replace_file(root / "compare.md", sheet.markdown(title, found))
    replace_file(root / "compare.json", sheet.as_json(found))
    best = best_of_each(standings(found))
    with suppress(ImportError):  # the table says all of it
        if best:
            replace_file(root / "compare.png", draw(best, title))
