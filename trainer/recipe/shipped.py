"""The recipes that come with the package, and how a name or path finds its file."""

from __future__ import annotations

from pathlib import Path

import galore.recipes
from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import is_there, user_path
from galore.trainer.common.suggest import nearest, refuse_absent
from galore.trainer.recipe.parse.problems import Place, Problem, RecipeError

FOLDER = Path(next(iter(galore.recipes.__path__)))
SCHEMA_FILE = FOLDER / "recipe.schema.json"
SUFFIXES = (".yaml", ".yml")


def shipped_names() -> list[str]:
    """Names of the shipped recipes: `demo` first, then by size and method."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=_by_size)


def _by_size(name: str) -> tuple[bool, float, str]:
    size = name.partition("-")[2].partition("-")[0]
    unit = {"m": 1e6, "b": 1e9}.get(size[-1:], 0)
    return (name != "demo", float(size[:-1]) * unit if size[:-1].isdigit() else 0, name)


def is_shipped(name: str) -> bool:
    return name in shipped_names()


def refuse_as_model(name: str) -> None:
    """Raise UserError if a model is named by a shipped recipe, and no folder of that name is here: it is in a run."""
    if not is_shipped(name) or is_there(Path(name)):
        return
    run = f"runs/{name}"
    made = "" if is_there(Path(run) / "recipe.yaml") else f", which `galore train {name}` makes"
    raise UserError("is a recipe, and no model", where=name, fix=f"name its run: {run}{made}")


def locate(name_or_path: str, beside: Path = Path(), asked: tuple[Place, str] | None = None) -> Path:
    """The file of a shipped name, of a path relative to `beside`, or of the run whose folder that is.

    Args:
        asked: the place and key that name it; default is the name itself.
    Raises:
        RecipeError: there is no such recipe; the nearest names are given.
        UserError: nor such a run, where that is what the path can be.
    """
    if is_shipped(name_or_path):
        return FOLDER / f"{name_or_path}.yaml"
    path = beside / user_path(name_or_path)
    if is_there(path):
        return path / "recipe.yaml" if is_there(path / "recipe.yaml") else path
    if asked is None and not name_or_path.endswith(SUFFIXES) and not _files_like(path):
        refuse_absent(name_or_path)
    place, key = asked or (Place(name_or_path), "")
    named = f": {name_or_path}" if asked else ""  # else the place has it
    what = "no such file" if _looks_like_file(name_or_path) else "neither a shipped recipe nor a file"
    raise RecipeError(place.source, [Problem(place, key, what + named, _nearest_recipes(name_or_path, path))])


def _looks_like_file(name: str) -> bool:
    return "/" in name or "\\" in name or name.endswith(SUFFIXES)


def _files_like(path: Path) -> list[str]:
    there = path.parent if is_there(path.parent) else Path()
    files = {each.name: str(each) for suffix in SUFFIXES for each in sorted(there.glob(f"*{suffix}"))}
    meant = [f"{path.name}{suffix}" for suffix in SUFFIXES if f"{path.name}{suffix}" in files]
    return [files[each] for each in meant or nearest(path.name, files, 2)]


def _nearest_recipes(name: str, path: Path) -> str:
    close = _files_like(path) + nearest(Path(name).stem, shipped_names(), 3)
    listed = "`galore recipes list` shows the shipped ones"
    return f"did you mean {' or '.join(close)}? {listed}" if close else listed


def about(name: str) -> str:
    """What a shipped recipe trains: its first comment that is not the editor header."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        comments = (line.removeprefix("# ").strip() for line in file if line.startswith("# "))
        return next((line for line in comments if not line.startswith("yaml-language-server")), "")
