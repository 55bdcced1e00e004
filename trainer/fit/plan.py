"""A recipe on a card, profiled as it will run."""

from __future__ import annotations

from galore.trainer.fit.predict import predict
from galore.trainer.machine.cards import Card
from galore.trainer.machine.process import expandable_segments
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.load import LoadedRecipe


def profile_on(loaded: LoadedRecipe, card: Card, *, brief: bool = False) -> Profile:
    """What `loaded` needs on `card`, with the allocator set as the recipe and the environment say; see `predict`.

    Raises:
        UserError: the model cannot be built or traced.
    """
    return Profile(
        predict(loaded, card, brief=brief), card, expandable_segments(loaded.recipe.train.expandable_segments)
    )
