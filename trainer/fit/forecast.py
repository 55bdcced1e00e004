"""What a run will need on the GPU that it is about to use."""

from __future__ import annotations

from typing import Any

from galore.trainer.build import Run
from galore.trainer.common.errors import UserError
from galore.trainer.fit.ranks import of_one_rank, profile_of_one, profile_of_part
from galore.trainer.machine.cards import Card, attached
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe, load_recipe


def forecast(run: Run) -> Profile | None:
    """The run's profile on its GPU; None on the CPU, or where its model cannot be traced, which is told."""
    card = card_of(run)
    if card is None:
        return None
    group = run.group
    try:
        if group is not None and group.sharded:
            return profile_of_part(of_one_rank(recipe_of(run), group.size), card, group.size)
        return profile_of_one(recipe_of(run), card, 1 if group is None else group.size)
    except UserError as error:
        run.console.message(f"memory is not predicted: {error}")
        return None


def card_of(run: Run) -> Card | None:
    """The GPU of a run."""
    return attached() if run.device.type == "cuda" else None


def recipe_of(run: Run) -> LoadedRecipe:
    """The recipe in the run's directory, with the number of embedding rows that it may leave to its tokenizer."""
    loaded, model = load_recipe(str(run.directory.recipe)), _untyped(run.model)
    if run.recipe.model.name_or_path is not None:
        return loaded
    known = changed(loaded, {"model.vocab_size": int(model.get_input_embeddings().weight.shape[0])})
    assert known is not None
    return known


def _untyped(model: Any) -> Any:
    return model
