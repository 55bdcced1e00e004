"""What to change so that a recipe fits a card: every remedy is tried by tracing the changed recipe."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from galore.trainer.common.errors import UserError
from galore.trainer.fit.ranks import host_of_all, profile_of_one
from galore.trainer.fit.remedies import (
    COSTS,
    SAME_RESULTS,
    Remedy,
    Settings,
    larger_micro_batches,
    remedies,
    remedy,
    some_blocks,
)
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Bounds
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe


class OutOfTime(Exception):  # noqa: N818 - it ends a search, and is no fault
    """A search took longer than it may."""


Progress = Callable[[str], None]
LONGEST = 2**17  # tokens per sequence that are tried


@dataclass(frozen=True)
class Need:
    """What a profile says, without its trace: dozens of traces of a large model would fill a laptop.

    `fits`: card and host; `on_host`: the host alone, where it is known.
    """

    total: Bounds
    fits: bool | None
    on_host: bool = True


@dataclass(frozen=True)
class Trial:
    """A changed recipe's profile. `gained`: bytes less of the total than the recipe as it is."""

    settings: Settings
    cost: str
    profile: Need
    gained: int

    @property
    def keeps_results(self) -> bool:
        """Whether the run computes what it would have computed."""
        return self.cost in SAME_RESULTS

    @property
    def helps(self) -> bool:
        """Needs less; or gets through where the recipe as it is may not, by cached memory given back in time."""
        return self.gained > 0 or self.profile.fits is True


@dataclass(frozen=True)
class Advice:
    """`trials`: each remedy alone, at the mildest step that makes the recipe fit, or else at its last; in order.

    `mildest`: those that make it fit together while the most disruptive of them is as mild as can be, each upon those
    before it; empty where not even all of them do. `unfinished`: the time was over before all was tried.
    """

    trials: tuple[Trial, ...]
    mildest: tuple[Trial, ...]
    room: tuple[Settings, ...]  # what could be larger, each alone, where the recipe fits as it is
    unfinished: bool = False
    positions: int | None = None  # of the recipe, where sequences of twice the length have none
    fits: bool = False  # the recipe as it is

    @property
    def alone(self) -> Trial | None:
        """The least disruptive single change that is enough."""
        return next((trial for trial in self.trials if trial.profile.fits), None)

    @property
    def chosen(self) -> tuple[Trial, ...]:
        """What to do: the one change that is enough; the mildest together where only that one alters results."""
        alone = self.alone
        if alone is None or (
            not alone.keeps_results and self.mildest and all(each.keeps_results for each in self.mildest)
        ):
            return self.mildest
        return (alone,)

    @property
    def settings(self) -> Settings:
        """All settings of what is chosen."""
        return settings_of(self.chosen)


class Adviser:
    """Tries changes of one recipe on one card, in a machine that may be known; a change is traced once.

    Args:
        progress: told what is tried, in a few words.
        brief: trace without the ordinary step first; what is found is tried as a whole.
        until: of `time.monotonic`: no trace begins later.
        processes: that share the run; what is tried is to fit the card of one.
        router: whether the model's configuration asks for a router's loss.
        ram: GiB of the machine, which is to hold what waits on the host.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        card: Card,
        progress: Progress = lambda text: None,
        *,
        brief: bool = True,
        until: float = math.inf,
        processes: int = 1,
        router: bool = False,
        ram: float | None = None,
    ) -> None:
        self.loaded, self.card, self.progress, self.brief = loaded, card, progress, brief
        self.until, self.processes, self.router, self.ram = until, processes, router, ram
        self._known: dict[str, Need | None] = {}
        self._base = self._profile({})

    def advise(self) -> Advice:
        """Try every remedy alone, and one upon the other until they are enough; or what there is room for."""
        if self._fits({}):
            return Advice((), (), self._room(), positions=self._too_few_positions(), fits=True)
        trials: list[Trial] = []
        try:
            for each in remedies(self.loaded.recipe, self.router):
                trial = self._best(each, {})
                trials += [trial] if trial is not None and trial.helps else []
            advice = Advice(tuple(trials), tuple(self._combine()), ())
            if self.brief and advice.settings and not self._holds(advice.settings):
                return Adviser(
                    self.loaded,
                    self.card,
                    self.progress,
                    brief=False,
                    until=self.until,
                    processes=self.processes,
                    router=self.router,
                    ram=self.ram,
                ).advise()
        except OutOfTime:
            return Advice(tuple(trials), (), (), unfinished=True)
        return advice

    def _holds(self, settings: Settings) -> bool:
        """Whether the whole run fits, too: another order of allocations may reserve a little more."""
        other = changed(self.loaded, settings)
        return (
            other is not None and profile_of_one(other, self.card, self.processes).fits is True and self._on_host(other)
        )

    def _on_host(self, loaded: LoadedRecipe) -> bool:
        return self.ram is None or host_of_all(loaded, self.processes).fits(self.ram)

    def _room(self) -> tuple[Settings, ...]:
        """The largest micro-batches, the longest sequences and the fewest blocks to recompute, each alone."""
        found = (*self._larger_batches(), self._longer(), self._fewer_blocks())
        return tuple(settings for settings in found if settings)

    def _too_few_positions(self) -> int | None:
        recipe = self.loaded.recipe
        known = recipe.model.max_position_embeddings if recipe.model.has_own_dimensions else None
        return known if known is not None and 2 * recipe.data.max_length > known else None

    def _larger_batches(self) -> Iterator[Settings]:
        """The largest that divides the global batch, and a larger one that another global batch makes room for."""
        steps = larger_micro_batches(self.loaded.recipe, self.processes, self.router)
        fitting = steps[: self._fitting(steps, self.loaded.recipe.train.micro_batch_size)]
        dividing = next(
            (step for step in reversed(fitting) if "train.global_batch_size" not in step and self._fits(step)), {}
        )
        yield dividing
        yield from (step for step in fitting[-1:] if step != dividing)

    def _fitting(self, steps: list[Settings], now: int) -> int:
        """How many of `steps` fit, each of which needs more than those before: by doublings, then halves."""
        sizes = [step["train.micro_batch_size"] for step in steps]
        least, most, reached = 0, len(steps), now
        while least < most:
            at = min(bisect_left(sizes, 2 * reached), most - 1)
            if not self._fits(steps[at]):
                most = at
                break
            least, reached = at + 1, sizes[at]
        return bisect_left(steps, True, least, most, key=lambda step: not self._fits(step))

    def _longer(self) -> Settings:
        now = length = self.loaded.recipe.data.max_length
        while 2 * length <= LONGEST and self._fits({"data.max_length": 2 * length}):
            length *= 2
        return {"data.max_length": length} if length > now else {}

    def _fewer_blocks(self) -> Settings:
        """Recomputing costs time: as few blocks as fit, in eighths; nothing where the recipe's number is the least."""
        now = self.loaded.recipe.train.gradient_checkpointing
        fewer = [blocks for blocks in (False, *some_blocks(self.loaded.recipe)) if now is True or blocks < now]
        steps: list[Settings] = [{"train.gradient_checkpointing": blocks} for blocks in fewer]
        first = bisect_left(steps, True, key=self._fits)
        return steps[first] if now is not False and first < len(steps) else {}

    def _best(self, remedy: Remedy, above: Settings) -> Trial | None:
        """The mildest step that fits, found by halving; the last step where none does."""
        steps = [step for step in remedy.steps if changed(self.loaded, {**above, **step}) is not None]
        if not steps:
            return None
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits({**above, **steps[middle]}) else (middle + 1, high)
        return self._trial(steps[low], remedy.cost, above)

    def _combine(self) -> Iterator[Trial]:
        """Remedies one upon the other, each of the recipe as changed so far, until it fits; none that is not needed."""
        taken: dict[str, Settings] = {}
        for cost in COSTS:
            above = _merged(taken.values())
            trial = self._best(remedy(self._recipe(above), cost, self.router), above)
            if trial is None or not trial.helps:
                continue
            taken[cost] = trial.settings
            if trial.profile.fits:
                yield from self._pruned(taken)
                return

    def _pruned(self, taken: dict[str, Settings]) -> Iterator[Trial]:
        for cost in list(taken)[:-1]:
            rest = {name: settings for name, settings in taken.items() if name != cost}
            if self._fits(_merged(rest.values())):
                taken = rest
        above: Settings = {}
        for cost, settings in taken.items():
            trial = self._trial(settings, cost, above)
            assert trial is not None
            yield trial
            above = {**above, **settings}

    def _trial(self, settings: Settings, cost: str, above: Settings) -> Trial | None:
        before, after = self._profile(above), self._profile({**above, **settings})
        if before is None or after is None:
            return None
        return Trial(settings, cost, after, before.total.high - after.total.high)

    def _recipe(self, settings: Settings) -> Recipe:
        other = changed(self.loaded, settings)
        assert other is not None
        return other.recipe

    def _fits(self, settings: Settings) -> bool:
        profile = self._profile(settings)
        return profile is not None and profile.fits is True

    def _profile(self, settings: Settings) -> Need | None:
        """The profile of the changed recipe; None where it contradicts itself, or the model."""
        key = repr(sorted(settings.items()))
        if key not in self._known:
            if settings and time.monotonic() > self.until:
                raise OutOfTime
            other = changed(self.loaded, settings)
            if other is not None and settings:
                self.progress(", ".join(f"{path}={value}" for path, value in settings.items()))
            self._known[key] = None if other is None else self._need(other, settings)
        return self._known[key]

    def _need(self, loaded: LoadedRecipe, settings: Settings) -> Need | None:
        try:
            profile, on_host = profile_of_one(loaded, self.card, self.processes, self.brief), self._on_host(loaded)
        except UserError as error:
            if error.where not in settings:
                raise
            return None  # the model, or a group of processes, refuses that change
        return Need(profile.total, profile.fits if on_host else False, on_host)


def _merged(parts: Iterable[Settings]) -> Settings:
    return {key: value for part in parts for key, value in part.items()}


def settings_of(trials: Iterable[Trial]) -> Settings:
    """All settings of several trials."""
    return _merged(trial.settings for trial in trials)
