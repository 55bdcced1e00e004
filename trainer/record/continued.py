"""The recipe that a run goes on with: what it takes over from the run, and in what it may not differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galore.trainer.checkpoint import identity
from galore.trainer.checkpoint.checkpoint import newest_state
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe, recipe_of_run
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import SCHEDULE, changed_mathematics, mathematics, taken_over, with_schedule
from galore.trainer.record.rundir import RunDir


def going_on(loaded: LoadedRecipe, directory: RunDir) -> LoadedRecipe:
    """`loaded` for the run in `directory`: what it leaves to the run, see `BEFORE`, is as the run did it so far."""
    state = newest_state(directory.checkpoints)
    known = state.get(identity.KEY, {}).get("mathematics") or mathematics(recipe_of_run(directory.recipe))
    settings = taken_over(known, loaded.recipe)
    return changed(loaded, settings) or loaded if any(value is not None for value in settings.values()) else loaded


def refuse_other_mathematics(directory: RunDir, recipe: Recipe) -> None:
    """Raise UserError where `recipe` computes something else than the run in `directory`, its schedule apart.

    By what the checkpoints were trained with; the run's recipe, a file anybody may edit, counts where there is none.
    """
    state = newest_state(directory.checkpoints)
    if identity.KEY in state:
        identity.require_same_recipe(state, recipe, directory.root)
        return
    old = recipe_of_run(directory.recipe)
    others = [line for line in changed_mathematics(old, recipe) if line.partition(":")[0] not in SCHEDULE]
    if others:
        raise UserError(
            "the recipe computes something else than this run: " + "; ".join(others),
            where=str(directory.root),
            fix="resume with the run's own recipe.yaml, or start anew in another --output-dir",
        )


def trained_schedule(directory: RunDir, state: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """`recipe` with the length and learning rates that the run in `directory` had when it saved `state`."""
    known = (
        state[identity.KEY]["mathematics"] if identity.KEY in state else mathematics(recipe_of_run(directory.recipe))
    )
    return with_schedule(recipe, known)
