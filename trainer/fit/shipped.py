"""A shipped recipe of the same model that fits a card: found in a table of totals, and traced before it is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from galore.trainer.common.format import GIB
from galore.trainer.common.reading import read_bounded
from galore.trainer.fit.hostmemory import host_profile
from galore.trainer.fit.predict import profile_on
from galore.trainer.machine.cards import Card, card
from galore.trainer.memory.profile import Profile
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.methods import named
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe

TABLE = Path(__file__).with_name(
    "shipped.json"
)  # GiB in total on REFERENCE; by `python bench/memory.py shipped --write`
REFERENCE = "rtx4090"
MOST = 2  # that are traced: where the table is right the first one fits


@dataclass(frozen=True)
class Shipped:
    """A shipped recipe that fits; `method`: that which it trains by, "" where it is the one that was asked about."""

    name: str
    profile: Profile
    method: str = ""


def shipped_that_fits(
    loaded: LoadedRecipe, on: Card, progress: Callable[[str], None] = lambda text: None, ram: float | None = None
) -> Shipped | None:
    """The one that uses the card best, of the same method if possible; None where none fits.

    Args:
        ram: GiB of the machine, which is to hold what waits on the host.
    """
    for _, name in zip(range(MOST), candidates(loaded, on), strict=False):
        progress(name)
        other = load_recipe(name)
        profile = profile_on(other, on)
        if profile.fits and (ram is None or host_profile(other, "cuda").fits(ram)):
            optim = other.recipe.optim
            return Shipped(name, profile, "" if _method(optim) == _method(loaded.recipe.optim) else named(optim).name)
    return None


def candidates(loaded: LoadedRecipe, on: Card) -> Iterator[str]:
    """Names of other shipped recipes of this model that should fit by the table, the best first: the one that this is
    with other settings, then those of its method."""
    room = (on.usable_low - on.context_high + card(REFERENCE).context_high) / GIB
    totals: dict[str, float] = json.loads(read_bounded(TABLE))
    others = {name: load_recipe(name).recipe for name, total in totals.items() if total <= room}
    model, own = _model(loaded.recipe), loaded.recipe.optim
    same = [name for name, recipe in others.items() if recipe != loaded.recipe and _model(recipe) == model]

    def rank(name: str) -> tuple[bool, bool, bool, bool, bool, float]:
        optim = others[name].optim
        kind, family, rule = _method(optim) != _method(own), optim.method != own.method, optim.inner != own.inner
        return name != loaded.origin, kind, family, optim.method != "galore", rule, -totals[name]

    yield from sorted(same, key=rank)


def _method(optim: OptimSection) -> tuple[object, ...]:
    """What a method is, in whatever types it keeps its states."""
    return optim.method, optim.adapter, optim.inner, optim.residual


def _model(recipe: Recipe) -> dict[str, object]:
    """The model's dimensions; how long its sequences may be is no part of them."""
    return recipe.model.model_dump(exclude={"max_position_embeddings"})
