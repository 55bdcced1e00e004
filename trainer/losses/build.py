"""The second loss of a recipe: found by its name, in the table or among those that Python gave, beside its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from galore.trainer.common.suggest import nearest
from galore.trainer.losses.alignment import AttentionAlignment
from galore.trainer.losses.distillation import Distillation
from galore.trainer.losses.extra import About, ExtraLoss, refused
from galore.trainer.recipe.schema.extraloss import ATTENTION, DISTILLATION

MODULE = "extra_loss"
"""Name of what a loss trains among the model's modules. Checkpoints have it; exports leave it out."""

LOSSES: dict[str, Callable[[About], ExtraLoss]] = {DISTILLATION: Distillation, ATTENTION: AttentionAlignment}

_given = dict[str, Callable[[About], ExtraLoss]]()


@contextmanager
def also(losses: Mapping[str, Callable[[About], ExtraLoss]]) -> Iterator[None]:
    """A context in which recipes may name these losses, too; each is called with `About`."""
    before = dict(_given)
    _given.update(losses)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def build_extra(about: About) -> ExtraLoss | None:
    """The loss that the recipe names, its module among those of the model; None where there is none, or it counts 0.

    Raises:
        UserError: there is no such loss, or it cannot be had of this model.
    """
    settings = about.recipe.extra_loss
    if settings.name is None:
        return None
    known = {**LOSSES, **_given}
    if settings.name not in known:
        close = nearest(settings.name, list(known))
        fix = (
            f"write {close[0]}" if close else f"there are {', '.join(known)}; galore.train(extra_losses=…) adds others"
        )
        raise refused(f"there is no loss called {settings.name}", "name", fix)
    if not settings.is_on:
        return None
    made = known[settings.name](about)
    if made.module is not None:
        about.model.add_module(MODULE, made.module)
    return made
