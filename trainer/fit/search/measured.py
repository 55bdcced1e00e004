"""The first choices of a search carried out here, in turns, and the fastest of them by measurement."""

from __future__ import annotations

from dataclasses import replace

import torch

from galore.trainer.fit.measure import MICRO_BATCHES, step_seconds
from galore.trainer.fit.search.fastest import Choice, Fastest
from galore.trainer.machine.device import choose_device
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import PER_MICRO_BATCH, Estimate

TURNS = 2  # of each choice; the best counts, for a busy machine only adds


def by_measurement(loaded: LoadedRecipe, found: Fastest) -> Fastest:
    """The same, with the best two and the recipe as it is in the order in which they were measured.

    Raises:
        UserError: a model cannot be built.
    """
    device = choose_device("cpu")
    candidates = [found.best, *([found.second] if found.second else [])]
    if found.shipped.fits and found.best.settings and not any(each.settings == {} for each in candidates):
        candidates.append(found.shipped)
    taken = [float("inf")] * len(candidates)
    for _ in range(TURNS):
        for at, choice in enumerate(candidates):
            taken[at] = min(taken[at], _seconds(loaded, choice, device))
    timed = [replace(choice, measured=seconds) for choice, seconds in zip(candidates, taken, strict=True)]
    best, *others = sorted(timed, key=lambda each: each.pace)
    shipped = next((each for each in timed if not each.settings), found.shipped)
    return replace(found, best=best, second=others[0] if others else None, shipped=shipped)


def _seconds(loaded: LoadedRecipe, choice: Choice, device: torch.device) -> float:
    """A step of all micro-batches, from one of few that was timed, refreshes as they are predicted."""
    other = changed(loaded, choice.settings)
    assert other is not None
    accumulation = other.recipe.train.accumulation
    share = min(MICRO_BATCHES, accumulation) / accumulation
    return step_seconds(other, device) * choice.estimate.seconds[0] / of_share(choice.estimate, share)


def of_share(estimate: Estimate, share: float) -> float:
    """Seconds of an ordinary step with that share of its micro-batches."""
    parts = estimate.ordinary[0].parts
    return sum(part.seconds * (share if name in PER_MICRO_BATCH else 1.0) for name, part in parts.items())
