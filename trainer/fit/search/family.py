"""One choice on every axis, with any number of recomputed blocks: time and memory of all blocks from those of few."""

from __future__ import annotations

from itertools import pairwise

from galore.trainer.common.errors import UserError
from galore.trainer.fit.predict import AGAIN, Sample, Sampled
from galore.trainer.fit.remedies import Settings
from galore.trainer.fit.search.places import Place
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, combined

PLAIN, AGAIN_TOO = "all kept", "computed again"
Peaks = dict[tuple[str, ...], int]


class Family:
    """`settings` upon a recipe; `counts`: numbers of recomputed blocks that are possible, ascending.

    A model whose blocks the recipe does not number is traced as a whole, with none of them recomputed and with all.
    """

    def __init__(self, loaded: LoadedRecipe, settings: Settings, place: Place) -> None:
        self.settings = settings
        self.blocks = blocks_of(loaded)
        self.counts = range(1 if settings.get("train.offload_activations") else 0, self.blocks + 1)
        other = _changed(loaded, {**settings, AGAIN: True})
        self.rows = other.recipe.train.micro_batch_size
        self._sampled = Sampled.of(other.recipe)
        self._estimates: dict[Sample, Estimate] = {}
        self._peaks: dict[Sample, Peaks] = {}
        self.more = 0  # bytes of all blocks above what few say, and other families need
        self.refused: set[int] = set()  # numbers of recomputed blocks that do not fit, as all blocks were traced
        for each in self._ends() if self._sampled is None else self._sampled.samples:
            sample = _changed(
                loaded, {**settings, **((self._sampled and each.settings) or self.with_blocks(each.again))}
            )
            trace = place.trace(sample)
            self._estimates[each] = place.estimate(sample, trace)
            self._peaks[each] = peaks(trace, each.again if self._sampled else None)

    @property
    def traces(self) -> int:
        return len(self._peaks)

    def _ends(self) -> tuple[Sample, ...]:
        return tuple(Sample(self.blocks, again) for again in dict.fromkeys((self.counts[0], self.blocks)))

    def with_blocks(self, again: int) -> Settings:
        """All settings, with so many recomputed blocks."""
        return {**self.settings, AGAIN: Sample(self.blocks, again).recomputing}

    def _times(self, again: int) -> dict[Sample, float]:
        """How often each sample is in the whole."""
        if self._sampled is not None:
            return self._sampled.times(again)
        first, *others = self._ends()
        share = (again - first.again) / (self.blocks - first.again) if others else 0.0
        return {first: 1 - share, **dict.fromkeys(others, share)}

    def estimate(self, again: int) -> Estimate:
        """How long a step takes with so many recomputed blocks."""
        return combined([(times, self._estimates[each]) for each, times in self._times(again).items()])

    def nbytes(self, again: int) -> int:
        """Bytes that are asked for at the peak, with so many recomputed blocks."""
        left_out = {0: AGAIN_TOO, self.blocks: PLAIN}.get(again) if self._sampled else None
        shared = set.intersection(*(set(each) for each in self._peaks.values()))
        keys = [key for key in shared if left_out not in key]
        times = self._times(again).items()
        return round(max(sum(of * self._peaks[each][key] for each, of in times) for key in keys or shared))

    def least(self, room: int) -> int | None:
        """The fewest recomputed blocks with which at most `room` bytes are asked for."""
        return next((each for each in self.counts if each not in self.refused and self.nbytes(each) <= room), None)


class Contradiction(Exception):  # noqa: N818 - it rules a choice out, and is no fault
    """Settings that a recipe cannot have together."""


def blocks_of(loaded: LoadedRecipe) -> int:
    """How many blocks a model has.

    Raises:
        UserError: a file says it.
    """
    if (blocks := loaded.recipe.model.blocks) is None:
        what = "the fastest setting is found from few blocks, and the model's dimensions stand in a file"
        raise UserError(what, where="--fastest", fix="give them in model, or name a network: model.architecture_of")
    return blocks


def _changed(loaded: LoadedRecipe, settings: Settings) -> LoadedRecipe:
    other = changed(loaded, settings)
    if other is None:
        raise Contradiction(f"{settings} contradict the recipe")
    return other


def peaks(trace: Trace, again: int | None) -> Peaks:
    """Most bytes asked for in each part of a step; where blocks are numbered, by where among the blocks it is.

    Between the first and the last block of a kind bytes rise or fall evenly, so that no other can have more.
    """
    found: Peaks = {}
    curve = trace.requested(high=True)
    marks = [*trace.marks, (len(curve), "")]
    blocks: dict[str, int | None] = {}
    most = 1 + max((b for a in trace.allocations if (b := _block(a.module, blocks)) is not None), default=0)
    for (start, what), (end, _) in pairwise(marks):
        for at in range(start, end):
            if trace.events[at] < 0:
                continue
            block = _block(trace.allocations[trace.events[at] - 1].module, blocks)
            for key in _places(what, block, again, most):
                found[key] = max(found.get(key, 0), curve[at])
    return found


def _places(what: str, block: int | None, again: int | None, most: int) -> list[tuple[str, ...]]:
    if again is None or block is None:
        return [(what,)]
    kind, first, last = (AGAIN_TOO, 0, again - 1) if block < again else (PLAIN, again, most - 1)
    return [(what, kind, name) for at, name in ((first, "first"), (last, "last")) if block == at]


def _block(module: str, known: dict[str, int | None]) -> int | None:
    """The number of the block that a module is part of."""
    if module not in known:
        known[module] = next((int(part) for part in module.split(".") if part.isdigit()), None)
    return known[module]
