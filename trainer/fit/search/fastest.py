"""The setting of the shortest predicted step that fits: few blocks for every choice, all for what is proposed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from galore.trainer.common.errors import UserError
from galore.trainer.fit.predict import AGAIN
from galore.trainer.fit.remedies import Settings
from galore.trainer.fit.search.axes import ROUNDED, Combination, combinations
from galore.trainer.fit.search.family import Contradiction, Family
from galore.trainer.fit.search.places import Place, Whole
from galore.trainer.recipe.change import changed, spelled
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate

MARGIN = 0.03  # of the total, for what the allocator takes beside, where the recipe's own place was not tried
MOST_WHOLE = 8  # traces of all blocks, the recipe as it is among them
IN_BLOCK = 3  # times what a block keeps is what it makes on its way at most, its gradients with it
POINTS = 8  # numbers of recomputed blocks of one choice that are shown


@dataclass(frozen=True)
class Choice:
    """Settings, of which those stand in `settings` that differ from the recipe's; `total`: bytes.

    `whole`: all blocks were traced; the others are known from few. `measured`: seconds of a step, where it was timed.
    """

    settings: Settings
    estimate: Estimate
    total: int
    fits: bool
    whole: bool = False
    measured: float | None = None

    @property
    def pace(self) -> float:
        """Seconds of a step by which it is compared: as measured, or as predicted."""
        return self.seconds if self.measured is None else self.measured

    @property
    def seconds(self) -> float:
        """The middle of what a step may take."""
        return middle(self.estimate)

    @property
    def tokens_per_second(self) -> float:
        return self.estimate.tokens / self.seconds

    def as_json(self) -> dict[str, object]:
        """Bytes and seconds."""
        return {
            "settings": spelled(self.settings),
            "seconds_per_step": list(self.estimate.seconds),
            "tokens_per_second": list(self.estimate.tokens_per_second),
            "total_bytes": self.total,
            "fits": self.fits,
            "measured_seconds_per_step": self.measured,
            "all_blocks_traced": self.whole,
        }


def middle(estimate: Estimate) -> float:
    """Seconds by which steps are compared: the geometric mean of the least and the most."""
    least, most = estimate.seconds
    return float((least * most) ** 0.5)


def ratio(bases: Sequence[Family]) -> float:
    """What the largest micro-batch of all could take of the last one's seconds, which are a + b / micro-batch.

    Args:
        bases: of ascending micro-batches, alike in all else.
    """
    if len(bases) < 2:
        return 0.0
    (before, then), (now, last) = ((each.rows, middle(each.estimate(each.blocks))) for each in bases[-2:])
    return max(0.0, (now * last - before * then) / (now - before) / last)


@dataclass(frozen=True)
class Fastest:
    """What a search found: all that was tried, and how many traces that took, of few blocks and of all.

    `rounded`: the best once more, with one thing after another that rounds otherwise and should be faster. `ended`: the
    micro-batch above which none was tried, by how those below it fell; None where all were.
    """

    place: str
    limit: int
    shipped: Choice
    best: Choice
    second: Choice | None
    rounded: tuple[Choice, ...]
    tried: tuple[Choice, ...]
    few: int
    whole: int
    ended: int | None = None

    def as_json(self) -> dict[str, object]:
        """Bytes and seconds."""
        return {
            "device": self.place,
            "limit_bytes": self.limit,
            "shipped": self.shipped.as_json(),
            "best": self.best.as_json(),
            "second": self.second and self.second.as_json(),
            "rounded_otherwise": [each.as_json() for each in self.rounded],
            "tried": [each.as_json() for each in self.tried],
            "micro_batches_tried_up_to": self.ended,
            "traces": {"of_few_blocks": self.few, "of_all": self.whole},
        }


class Search:
    """Tries what may be chosen of one recipe at one place.

    Args:
        progress: told what is tried, in a few words.
    """

    def __init__(self, loaded: LoadedRecipe, place: Place, progress: Callable[[str], None] = lambda text: None) -> None:
        self.loaded, self.place, self.progress = loaded, place, progress
        self._values = loaded.recipe.model_dump()
        self._leasts: dict[tuple[int, int], int | None] = {}
        self.families: dict[str, Family] = {}
        self.wholes: dict[str, Whole | None] = {}
        self.more = 0  # bytes of a whole trace above what few blocks ask for
        self.ended: int | None = None
        self.refused_by_host = False  # something that the device should hold

    def run(self) -> Fastest:
        """The fastest that fits, the next one of another kind, and what the recipe is as it stands.

        Raises:
            UserError: nothing that was tried fits, or the model cannot be traced.
        """
        gc.collect()
        gc.freeze()  # every trace collects garbage; what was made before is none
        try:
            return self._run()
        finally:
            gc.unfreeze()

    def _run(self) -> Fastest:
        shipped = self._whole({})
        assert shipped is not None
        self._try_all(shipped)
        families = list(self.families.values())
        best = self._fastest(families)
        if best is None:
            raise self._nothing_fits()
        second = self._fastest([each for each in families if each is not best[0]])
        return Fastest(
            self.place.name,
            self.place.limit,
            Choice({}, shipped.estimate, shipped.total, shipped.fits, True),
            best[1],
            second and second[1],
            tuple(self._rounded(best[1])),
            tuple(self._points()),
            sum(each.traces for each in families),
            len(self.wholes),
            self.ended,
        )

    def _nothing_fits(self) -> UserError:
        what = f"nothing tried makes {self.loaded.name} fit {self.place.name}"
        if not self.refused_by_host:
            return UserError(what, where="--fastest", fix="ask --advise what else could be changed")
        what = f"{what} in a machine with {self.place.ram:g} GiB of memory"
        return UserError(
            what, where="--ram", fix="name a machine with more, or ask --advise what else could be changed"
        )

    def _try_all(self, shipped: Whole) -> None:
        """Ascending in the micro-batch, until a larger one could not be faster: seconds fall as `ratio` says at most.

        Of one micro-batch what spares memory is left out where all blocks can be kept without it, and where even with
        the few blocks recomputed that its bytes on the host may spare it could be no faster than what was found.
        """
        fastest = middle(shipped.estimate) if shipped.fits else inf
        self.more = round(MARGIN * shipped.total)
        own = self._family(self._own())
        if own is not None:
            self.more = shipped.total - own.nbytes(_again(self.loaded, own))
        bases: list[Family] = []
        for plain, *others in combinations(self.loaded.recipe, self.place.kind):
            base = self._family(plain.settings)
            if base is None:
                continue
            bases.append(base)
            fastest = min(fastest, self._seconds(base))
            if self._least(base) == 0:
                continue
            bounds = [(bound, each) for each in others if (bound := self._bound(base, each)) is not None]
            if self._least(base) is None and min((each for each, _ in bounds), default=inf) * ratio(bases) >= fastest:
                self.ended = bases[-1].rows
                return
            for bound, each in sorted(bounds, key=lambda pair: pair[0]):
                if bound < fastest and (family := self._family(each.settings)) is not None:
                    fastest = min(fastest, self._seconds(family))

    def _bound(self, base: Family, other: Combination) -> float | None:
        """Seconds below which `other` cannot come, which spares time nowhere; None where it cannot fit."""
        recipe = changed(self.loaded, {**other.settings, AGAIN: True})
        if recipe is None:
            return None
        spared = self.place.host(recipe)[1] if other.on_host else 0
        if other.in_block:
            spared += IN_BLOCK * max(0, base.nbytes(base.counts[0]) - base.nbytes(base.counts[0] + 1))
        least = base.least(self.place.limit - self.more + spared)
        return None if least is None else middle(base.estimate(least))

    def _own(self) -> Settings:
        """The recipe's own place on every axis."""
        return self._now(combinations(self.loaded.recipe, self.place.kind)[0][0].settings)

    def _family(self, settings: Settings) -> Family | None:
        key = repr(sorted(settings.items()))
        if key not in self.families:
            self.progress(" ".join(spelled(settings)))
            try:
                self.families[key] = Family(self.loaded, settings, self.place)
            except Contradiction:
                return None
            except UserError as error:
                if error.where not in settings:
                    raise
                return None  # the model refuses that choice
        return self.families[key]

    def _seconds(self, family: Family) -> float:
        least = self._least(family)
        return inf if least is None else middle(family.estimate(least))

    def _least(self, family: Family) -> int | None:
        """The fewest recomputed blocks with which a family should fit the device, and the machine around it."""
        key = id(family), len(family.refused)
        if key not in self._leasts:
            least = family.least(self.place.limit - self.more - family.more)
            other = None if least is None else changed(self.loaded, family.with_blocks(least))
            held = other is not None and self.place.host(other)[0]
            self.refused_by_host |= other is not None and not held
            self._leasts[key] = least if held else None
        return self._leasts[key]

    def _fastest(self, families: Sequence[Family]) -> tuple[Family, Choice] | None:
        """The fastest of some: it is traced as a whole, and makes room for the next where it does not fit."""
        while found := [each for each in families if self._least(each) is not None]:
            family = min(found, key=self._seconds)
            again = self._least(family)
            assert again is not None
            settings = self._different(family.with_blocks(again))
            if len(self.wholes) >= MOST_WHOLE:
                return None
            whole = self._whole(settings)
            if whole is not None and whole.fits:
                return family, Choice(settings, whole.estimate, whole.total, True, True)
            family.refused.add(again)
            if whole is not None:
                family.more = max(family.more, whole.total - family.nbytes(again) - self.more)
        return None

    def _rounded(self, best: Choice) -> Iterator[Choice]:
        """`best` with what rounds otherwise, where the recipe leaves that open and a step should be shorter."""
        found = best
        for path, (plain, wanted) in ROUNDED.items() if self.place.kind == "cuda" else ():
            settings = {**found.settings, path: wanted}
            try:
                whole = self._whole(settings) if self._now({path: wanted})[path] == plain else None
            except UserError as error:
                if error.where != path:
                    raise
                continue  # the model refuses it
            if whole is not None and whole.fits and middle(whole.estimate) < found.seconds:
                found = Choice(settings, whole.estimate, whole.total, True, True)
                yield found

    def _whole(self, settings: Settings) -> Whole | None:
        key = repr(sorted(settings.items()))
        if key not in self.wholes:
            self.progress(f"all blocks of {' '.join(spelled(settings)) or 'the recipe as it is'}")
            other = changed(self.loaded, settings) if settings else self.loaded
            self.wholes[key] = None if other is None else self.place.whole(other)
        return self.wholes[key]

    def _now(self, settings: Settings) -> Settings:
        """What the recipe says of the same."""
        return {path: self._values[section][key] for path in settings for section, key in [path.split(".")]}

    def _different(self, settings: Settings) -> Settings:
        """What is not as the recipe says; True is no 1."""
        now = self._now(settings)
        return {path: value for path, value in settings.items() if repr(now[path]) != repr(value)}

    def _points(self) -> Iterator[Choice]:
        """Every family with some numbers of recomputed blocks."""
        for family in self.families.values():
            least = self._least(family)
            counts = {*family.counts[:: max(1, family.blocks // POINTS)], family.blocks}
            for again in sorted(counts if least is None else counts | {least}):
                total, fits = family.nbytes(again) + self.more + family.more, least is not None and again >= least
                yield Choice(self._different(family.with_blocks(again)), family.estimate(again), total, fits)


def _again(loaded: LoadedRecipe, family: Family) -> int:
    now = loaded.recipe.train.gradient_checkpointing
    return family.blocks if now is True else min(int(now), family.blocks)
