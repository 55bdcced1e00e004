"""Which run a path belongs to: its folder, its recipe, a checkpoint or another part of it."""

from __future__ import annotations

from pathlib import Path

from galore.trainer.checkpoint.rotation import step_directories
from galore.trainer.common.errors import UserError
from galore.trainer.record.rundir import RunDir, refuse_without_recipe


def run_of(path: Path) -> RunDir | None:
    """The run whose directory, recipe or checkpoint `path` is; None for anything else."""
    root = path.absolute().parent.parent if is_checkpoint(path) else path.parent if path.name == "recipe.yaml" else path
    run = RunDir(root)
    is_run = run.recipe.is_file() and (path.name != "recipe.yaml" or run.facts.is_file())
    return run if is_run else None


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint in the directory of a run."""
    folder = path.absolute()
    known = folder.parent.name == "checkpoints" and (folder.parent.parent / "recipe.yaml").is_file()
    return known and any(folder == each for _, each in step_directories(folder.parent))


def refuse_part_of_run(folder: Path) -> None:
    """Raise UserError, which names the run, if `folder` is a checkpoint or another part of one, no model by itself; or
    a run without its recipe."""
    refuse_without_recipe(folder)
    above = [each for each in (folder, *folder.absolute().parents) if each.name == "checkpoints"]
    run = RunDir(above[0].absolute().parent if above else folder.absolute().parent)
    if not run.recipe.is_file() or (not above and (not folder.is_dir() or (folder / "config.json").is_file())):
        return
    name = run.root.relative_to(Path.cwd()) if run.root.is_relative_to(Path.cwd()) else run.root
    fix = f"name the run, whose newest good checkpoint is taken: galore eval {name}; likewise galore generate and galore export"
    raise UserError("is a part of a run, and no model by itself", where=str(folder), fix=fix)
