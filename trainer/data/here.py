"""Whether what a recipe names on this computer is here: by names alone, before anything is read or imported for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import is_there, means_a_path, user_path
from galore.trainer.data.text.locate import find_files
from galore.trainer.recipe.schema.recipe import Recipe

ONLY_ON_THE_HUB = "is nothing here, so it is taken for a name on the hub"


def not_here(recipe: Recipe, base_dir: Path) -> list[UserError]:
    """An error for each file, folder or glob of a recipe that matches nothing: a run here would be refused."""
    return [*_text(recipe, base_dir), *_folders(recipe, base_dir)]


def only_on_the_hub(recipe: Recipe, base_dir: Path) -> list[str]:
    """A line for a model that is no folder here and no path by its form: a name on the hub, or a typo."""
    name = recipe.model.name_or_path
    if name is None or is_there(base_dir / user_path(name)) or means_a_path(name, base_dir):
        return []
    return [f"model.name_or_path: {name} {ONLY_ON_THE_HUB}"]


def _text(recipe: Recipe, base_dir: Path) -> Iterator[UserError]:
    sources = recipe.data.sources or []
    for number, part in enumerate(recipe.data.parts):
        for key in ("path", "validation_path") if part.source == "local" else ():
            paths = getattr(part, key)
            try:
                if paths is not None:
                    find_files(paths, base_dir, part.format, f"data.{key}")
            except UserError as error:
                error.where = sources[number].place(number, error.where) if sources else error.where
                yield error


def _folders(recipe: Recipe, base_dir: Path) -> Iterator[UserError]:
    task = recipe.data.path if recipe.data.source == "glue" and isinstance(recipe.data.path, str) else None
    named = {
        "data.path": task,
        "data.tokenizer": recipe.data.tokenizer,
        "model.name_or_path": recipe.model.name_or_path,
    }
    for key, name in named.items():
        if name is not None and not is_there(base_dir / user_path(name)) and means_a_path(name, base_dir):
            fix = f"check the name: it is looked for relative to {base_dir}"
            yield UserError(f"there is no {base_dir / user_path(name)}", where=key, fix=fix)
