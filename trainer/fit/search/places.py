"""Where a recipe would be trained: what a step needs there, how long it takes, and what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import psutil
import torch

from galore.trainer.common.errors import UserError
from galore.trainer.common.format import GIB
from galore.trainer.fit.duration import duration_on, estimated, with_axes
from galore.trainer.fit.hostmemory import PROCESS, SYSTEM, host_profile
from galore.trainer.fit.predict import predict, profile_on
from galore.trainer.machine.cards import Card
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate
from galore.trainer.time.rates import card_rates
from galore.trainer.time.replay import Replayed


@dataclass(frozen=True)
class Whole:
    """A recipe as all of it was traced: bytes in total, whether device and machine surely hold it, a step's time."""

    total: int
    fits: bool
    estimate: Estimate


class Place(Protocol):
    """A device of a `kind`, "cuda" or "cpu", with `limit` bytes; `note` says if nobody chose it.

    `ram`: GiB of the machine around it, where that is known and is not the device itself.
    """

    name: str
    note: str
    kind: str
    limit: int
    ram: float | None

    def trace(self, loaded: LoadedRecipe) -> Trace:
        """The recipe's steps."""

    def estimate(self, loaded: LoadedRecipe, trace: Trace) -> Estimate:
        """How long steps that were traced take."""

    def whole(self, loaded: LoadedRecipe) -> Whole:
        """All of a recipe."""

    def host(self, loaded: LoadedRecipe) -> tuple[bool, int]:
        """(whether the machine around it holds what waits on the host, bytes of that)."""


class OnCard:
    """A card by its published figures, in a machine of `ram` GiB, where that is known.

    Raises:
        UserError: the card has no published figures.
    """

    kind = "cuda"

    def __init__(self, card: Card, ram: float | None) -> None:
        if card_rates(card) is None:
            what = f"how fast {card.name} computes is not known, so that no setting is the fastest"
            raise UserError(what, where="--fastest", fix="name a card, such as --gpu rtx4090")
        self.card, self.ram = card, ram
        self.name, self.note, self.limit = card.name, card.note, card.usable_low

    def trace(self, loaded: LoadedRecipe) -> Trace:
        return predict(loaded, self.card)

    def estimate(self, loaded: LoadedRecipe, trace: Trace) -> Estimate:
        found = duration_on(loaded, trace, self.card, None)
        assert found is not None
        return found

    def whole(self, loaded: LoadedRecipe) -> Whole:
        profile = profile_on(loaded, self.card)
        fits = profile.fits is True and self.host(loaded)[0]
        return Whole(profile.total.high, fits, self.estimate(loaded, profile.trace))

    def host(self, loaded: LoadedRecipe) -> tuple[bool, int]:
        profile = host_profile(loaded, self.kind)
        return self.ram is None or profile.fits(self.ram), sum(profile.pinned.values())


class Here:
    """This machine's CPU: each distinct operation is carried out and timed."""

    kind = "cpu"
    name = "this CPU"
    note = ""
    ram: float | None = None

    def __init__(self, ram: float | None) -> None:
        self.limit = round((psutil.virtual_memory().total if ram is None else ram * GIB) - SYSTEM)
        self.rates = Replayed(torch.device("cpu"), of=min)

    def trace(self, loaded: LoadedRecipe) -> Trace:
        return predict(loaded, None)

    def estimate(self, loaded: LoadedRecipe, trace: Trace) -> Estimate:
        self.rates.time(with_axes(loaded, trace))
        return estimated(loaded, trace, (self.rates, self.rates), None, None, "each operation timed alone, added up")

    def whole(self, loaded: LoadedRecipe) -> Whole:
        trace = self.trace(loaded)
        total = round(max(trace.requested(high=True)) + PROCESS[self.kind])
        return Whole(total, total <= self.limit, self.estimate(loaded, trace))

    def host(self, loaded: LoadedRecipe) -> tuple[bool, int]:
        return True, 0
