"""One choice on every axis, with any number of recomputed blocks: time and memory of all blocks from those of few."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from galore.trainer.common.errors import UserError
from galore.trainer.fit.duration import few
from galore.trainer.fit.remedies import Settings
from galore.trainer.fit.search.places import Place
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, combined

AGAIN = "train.gradient_checkpointing"
PLAIN, AGAIN_TOO = "all kept", "computed again"
Peaks = dict[tuple[str, ...], int]


class Family:
    """`settings` upon a recipe; `counts`: numbers of recomputed blocks that are possible, ascending.

    Blocks are alike, so that seconds and bytes of every part of a step grow evenly with their number. A model whose
    blocks the recipe does not number is traced as a whole, with none of them recomputed and with all.
    """

    def __init__(self, loaded: LoadedRecipe, settings: Settings, place: Place) -> None:
        self.loaded, self.settings = loaded, settings
        self.blocks, numbered = blocks_of(loaded)
        self.counts = range(1 if settings.get("train.offload_activations") else 0, self.blocks + 1)
        other = changed(loaded, {**settings, AGAIN: True})
        if other is None:
            raise Contradiction(f"{settings} contradict the recipe")
        self.rows = other.recipe.train.micro_batch_size
        fewer = few(other.recipe)
        sampled = numbered and self.blocks > fewer + 1
        self._few = fewer if sampled else 0
        self._estimates: list[Estimate] = []
        self._peaks: list[Peaks] = []
        self.traces = 0
        self.more = 0  # bytes of all blocks above what few say, and other families need
        self.refused: set[int] = set()  # numbers of recomputed blocks that do not fit, as all blocks were traced
        for blocks, again in self._samples(fewer) if sampled else self._ends():
            sample = self._sample(blocks if sampled else None, again)
            trace = place.trace(sample)
            self.traces += 1
            self._estimates.append(place.estimate(sample, trace))
            self._peaks.append(peaks(trace, again if sampled else None))

    def _samples(self, fewer: int) -> list[tuple[int, int]]:
        """(blocks, those of them that are recomputed): one more of either kind."""
        return [(fewer, 1), (fewer + 1, 1), (fewer + 1, 2)]

    def _ends(self) -> list[tuple[int, int]]:
        return [(self.blocks, again) for again in dict.fromkeys((self.counts[0], self.blocks))]

    def _sample(self, blocks: int | None, again: int) -> LoadedRecipe:
        number = {} if blocks is None else {"model.num_hidden_layers": blocks}
        sample = changed(self.loaded, {**self.settings, **number, AGAIN: self._spelled(again, blocks or self.blocks)})
        if sample is None:
            raise Contradiction(f"{self.settings} contradict the recipe")
        return sample

    def _spelled(self, again: int, blocks: int) -> bool | int:
        return again == blocks if again in (0, blocks) else again

    def with_blocks(self, again: int) -> Settings:
        """All settings, with so many recomputed blocks."""
        return {**self.settings, AGAIN: self._spelled(again, self.blocks)}

    def _times(self, again: int) -> Sequence[float]:
        """How often each sample is in the whole."""
        if self._few:
            more = again - 1
            plain = self.blocks - self._few - more
            return 1 - plain - more, plain, more
        if len(self._estimates) == 1:
            return (1.0,)
        share = (again - self.counts[0]) / (self.blocks - self.counts[0])
        return 1 - share, share

    def estimate(self, again: int) -> Estimate:
        """How long a step takes with so many recomputed blocks."""
        return combined(list(zip(self._times(again), self._estimates, strict=True)))

    def nbytes(self, again: int) -> int:
        """Bytes that are asked for at the peak, with so many recomputed blocks."""
        left_out = {0: AGAIN_TOO, self.blocks: PLAIN}.get(again) if self._few else None
        shared = set.intersection(*(set(each) for each in self._peaks))
        keys = [key for key in shared if left_out not in key]
        times = self._times(again)
        return round(
            max(sum(of * each[key] for of, each in zip(times, self._peaks, strict=True)) for key in keys or shared)
        )

    def least(self, room: int) -> int | None:
        """The fewest recomputed blocks with which at most `room` bytes are asked for."""
        return next((each for each in self.counts if each not in self.refused and self.nbytes(each) <= room), None)


class Contradiction(Exception):  # noqa: N818 - it rules a choice out, and is no fault
    """Settings that a recipe cannot have together."""


def blocks_of(loaded: LoadedRecipe) -> tuple[int, bool]:
    """How many blocks a model has, and whether the recipe may say another number.

    Raises:
        UserError: a file says how many there are.
    """
    model = loaded.recipe.model
    if (blocks := model.blocks) is None:
        what = "the fastest setting is found from few blocks, and the model's dimensions stand in a file"
        raise UserError(what, where="--fastest", fix="give them in model, or name a network: model.architecture_of")
    return blocks, model.has_own_dimensions


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
