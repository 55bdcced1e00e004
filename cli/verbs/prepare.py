"""`galore prepare`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from galore.cli.arguments import Overrides, Recipe


def prepare(
    recipe: Recipe,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tokenize the data of a recipe ahead, on any machine: what they come to, and where they lie for `galore train`."""
    from galore.trainer.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])

    from galore.trainer.machine.process import prepare_process

    prepare_process()  # before torch is imported

    from galore.cli.show.progress.preparing import preparing
    from galore.cli.show.survey import show_survey
    from galore.trainer.data.survey import survey
    from galore.trainer.models.pretrained import refuse_longer_sequences

    refuse_longer_sequences(loaded.recipe, loaded.base_dir)
    with preparing() as progress:
        found = survey(loaded.recipe, loaded.base_dir, progress)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        show_survey(found, loaded.recipe)
