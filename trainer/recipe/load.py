"""YAML, `extends:` and overrides to one frozen Recipe; or every error at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galore.trainer.common.legible import writable
from galore.trainer.common.reading import is_there, user_path
from galore.trainer.recipe.chattemplates import SUFFIXES
from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.explain.fields import sections
from galore.trainer.recipe.explain.unknown import take_unknown
from galore.trainer.recipe.explain.values import read_as_meant, shown, validate
from galore.trainer.recipe.merge import merge
from galore.trainer.recipe.overrides import parse_overrides
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.parse.source import LARGEST_RESOLVED_BYTES, UNWRITABLE, Layer, parse, read_layer, read_text
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import as_before
from galore.trainer.recipe.shipped import is_shipped, locate
from galore.trainer.recipe.task_settings import with_task_settings

CORPUS = [("data", "path"), ("data", "validation_path")]  # files if the source is local, else names on the hub
MAYBE_FILES = [
    ("data", "tokenizer"),
    ("model", "name_or_path"),
    ("extra_loss", "teacher"),
]  # files, or names on the hub
FILES = [("data", "cache_dir")]


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        origin: the file, or the shipped name.
        base_dir: what relative data paths are relative to: the folder of the file; the working directory for a shipped
            name.
        text: the resolved recipe as commented YAML, overrides and defaults included.
    """

    recipe: Recipe
    origin: str
    base_dir: Path
    text: str

    @property
    def name(self) -> str:
        """The shipped name, or the name of the file without its suffix."""
        return writable(self.origin if is_shipped(self.origin) else Path(self.origin).stem)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Reads a shipped name or a file, what it extends, and overrides such as `optim.rank=256`.

    Raises:
        RecipeError: with all problems of the file, of what it extends, and of the overrides.
    """
    files = _chain(_main_layer(name_or_path))
    recipe, left_out = _resolve(files, parse_overrides(overrides))
    main, *parents = reversed(files)
    lines = [f"Resolved from {main.origin}", *(f"  which extends {each.origin}" for each in parents)]
    header = "\n".join([*lines, *(f"  {each}" for each in overrides), *(f"  {each}" for each in left_out)])
    return LoadedRecipe(recipe, main.origin, main.directory, dump_recipe(recipe, header))


def recipe_from_resolved(text: str, where: str) -> Recipe:
    """Reads a resolved recipe, as a run directory keeps it. Raises RecipeError, which names `where`."""
    return _resolve(_chain(parse(text, where, Path.cwd())))[0]


def recipe_of_run(file: Path) -> Recipe:
    """The resolved recipe that the run directory of `file` keeps. Raises RecipeError."""
    layer = parse(read_text(file, str(file), LARGEST_RESOLVED_BYTES), str(file), Path.cwd())
    parts = ((name, section) for name, section in layer.values.items() if isinstance(section, dict))
    known = {f"{name}.{key}" for name, section in parts for key in section}
    return as_before(_resolve(_chain(layer))[0], known)


def _main_layer(name_or_path: str) -> Layer:
    path = locate(name_or_path)
    if is_shipped(name_or_path):
        return read_layer(path, name_or_path, Path.cwd())
    return read_layer(path, str(path), path.parent.absolute())


def _resolve(files: list[Layer], above: Layer | None = None) -> tuple[Recipe, list[str]]:
    """The recipe, and which settings of the files others took the place of, in words."""
    main = files[-1]
    layers = with_task_settings(files, above)
    meant = set().union(*(take_unknown(layer) for layer in layers))
    merged = merge(layers, main)
    if any(problem.key == "extends" for problem in merged.problems):
        meant |= set(sections())  # what a missing parent would have said is not the user's omission
    read_as_meant(merged)
    anchor_paths(merged)
    recipe, problems = validate(merged, meant)
    if recipe is None or merged.problems:
        raise RecipeError(main.origin, merged.problems + problems)
    return recipe, merged.left_out


def _chain(main: Layer) -> list[Layer]:
    """What `main` extends, what that extends, and so on, from the lowest; `main` is the last one, and wins.

    `extends` itself leaves the values. What is wrong with one is noted in the problems of the layer that says it.
    """
    layers = [main]
    while "extends" in layers[0].values:
        parent = _parent_of(layers[0])
        if parent is None:
            break
        if parent.file in [each.file for each in layers]:
            _report_circle(layers, parent)
            break
        layers.insert(0, parent)
    return layers


def _report_circle(layers: list[Layer], parent: Layer) -> None:
    names = [each.origin for each in reversed(layers) if each.file is not None]
    files = [each.file for each in reversed(layers)]
    first = files.index(parent.file)
    circle = " → ".join([*names[first:], names[first]])
    layers[0].report(("extends",), f"goes round in a circle: {circle}", "take the `extends` out of one of them")


def _parent_of(child: Layer) -> Layer | None:
    name = child.values.pop("extends")
    if not isinstance(name, str):
        child.report(("extends",), f"expected a shipped recipe or a file, got {shown(name)}")
        return None
    try:
        return _read_parent(name, child)
    except RecipeError as error:
        if all(problem.key != "extends" for problem in error.problems):
            child.report(("extends",), f"`{name}` cannot be read")
        child.problems += error.problems
        return None


def _read_parent(name: str, child: Layer) -> Layer:
    path = locate(name, child.directory, (child.place(("extends",)), "extends"))
    if is_shipped(name):
        return read_layer(path, name, child.directory)
    beside_us = path.is_relative_to(Path.cwd())
    return read_layer(path, str(path.relative_to(Path.cwd()) if beside_us else path), path.parent.absolute())


def anchor_paths(merged: Layer) -> None:
    """Makes local paths absolute: each is relative to the file it is written in, or to the working directory if given
    on the command line. The resolved recipe then means the same wherever it is read.

    A tokenizer or model may as well be a hub name: it is taken for a path only if something is there.
    """
    source = merged.values.get("data", {}).get("source", "local")
    files = [*FILES, *CORPUS] if source == "local" else FILES
    if str(merged.values.get("data", {}).get("chat_template")).endswith(SUFFIXES):
        files = [*files, ("data", "chat_template")]
    maybe = [*MAYBE_FILES, *CORPUS] if source == "glue" else MAYBE_FILES
    for section, name in [*files, *maybe]:
        values = merged.values.get(section, {})
        if name in values:
            directory = merged.place((section, name)).directory
            values[name] = _anchored(values[name], directory, (section, name) in files)
            if UNWRITABLE.search(str(values[name])):
                merged.report((section, name), "lies below a folder whose name is not UTF-8", "rename that folder")
    _anchor_sources(merged)
    _anchor_factors(merged)


def _anchor_factors(merged: Layer) -> None:
    """Makes the files that rotary positions name absolute, of the model and of stages, each in a copy."""
    for section, name in (("model", "rope"), ("train", "length_stages")):
        values = merged.values.get(section, {})
        if name in values:
            values[name] = _with_factors(values[name], merged.place((section, name)).directory)


def _with_factors(value: Any, directory: Path) -> Any:
    if isinstance(value, list):
        return [_with_factors(each, directory) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _anchored(each, directory, True) if key == "factors" else _with_factors(each, directory)
        for key, each in value.items()
    }


def _anchor_sources(merged: Layer) -> None:
    """Makes the paths of the sources of data absolute, each in a copy: others may extend the same file."""
    values, key = merged.values.get("data", {}), ("data", "sources")
    if isinstance(values.get("sources"), list):
        directory, source = merged.place(key).directory, values.get("source", "local")
        values["sources"] = [
            _anchored_source(each, directory, source) if isinstance(each, dict) else each for each in values["sources"]
        ]


def _anchored_source(each: dict[str, Any], directory: Path, source: str) -> dict[str, Any]:
    """One of them; the name of a data set of the hub is a path only if something is there."""
    surely, name = each.get("source", source) == "local", each.get("name")
    named = each.get("path") is None and each.get("source", "hub") == "hub" and isinstance(name, str)
    if named and is_there(directory / user_path(str(name))):
        each, surely = {"path": name, **each, "source": "hub"}, False
    files = [name for _, name in CORPUS]
    return {key: _anchored(value, directory, surely) if key in files else value for key, value in each.items()}


def _anchored(value: Any, directory: Path, surely: bool) -> Any:
    if isinstance(value, list):
        return [_anchored(each, directory, surely) for each in value]
    if type(value) is int:  # a folder called 2024, as YAML reads it
        value = str(value)
    if not isinstance(value, str) or not value:
        return value
    path = Path(os.path.abspath(directory / user_path(value)))  # noqa: PTH100 - symlinks stay as they are
    return str(path) if surely or is_there(path) else value
