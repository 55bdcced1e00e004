"""A loaded recipe with some settings changed by the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe


def changed(loaded: LoadedRecipe, settings: Mapping[str, Any]) -> LoadedRecipe | None:
    """`loaded` with {"section.key": value} in place; None where the result contradicts itself."""
    values = loaded.recipe.model_dump()
    for path, value in settings.items():
        section, key = path.split(".")
        values[section][key] = value
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError:
        return None
    header = f"Resolved from {loaded.origin}" + "".join(f"\n  {each}" for each in spelled(settings))
    return replace(loaded, recipe=recipe, text=dump_recipe(recipe, header))


def spelled(settings: Mapping[str, Any]) -> list[str]:
    """Settings as overrides on the command line: `train.gradient_checkpointing=true`."""
    words = {None: "null", True: "true", False: "false"}
    return [
        f"{path}={words[value] if value is None or isinstance(value, bool) else value}"
        for path, value in settings.items()
    ]
