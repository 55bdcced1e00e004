"""The longest sequences of a recipe that fit a card, and its host: a few traces of two sizes say it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from galore.trainer.common.errors import UserError
from galore.trainer.fit.duration import duration_on
from galore.trainer.fit.hostmemory import HostProfile, host_profile
from galore.trainer.fit.length.bracket import Found, largest
from galore.trainer.fit.predict import Sampled, profile_on
from galore.trainer.fit.remedies import Settings
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.models.capacity import positions_of
from galore.trainer.models.decoder import public_config
from galore.trainer.models.pretrained import locate, read_config
from galore.trainer.parameters import dry_run
from galore.trainer.recipe.change import changed, spelled
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.time.estimate import Estimate, combined

STEP = 1024  # tokens
FIRST, MOST = 16 * STEP, 1024 * STEP  # what is tried first, and at most
TRIES = 10
IDLE = 0.015  # of what further blocks take lies idle beside it


@dataclass(frozen=True)
class Longest:
    """What was found. `length` is 0 where not even the shortest fits; `settings` are those that `length` takes.

    `host`: of `length`, or of the shortest where the host has no room for it.
    `total`, `limit`: bytes on the card. `too_long`: the shortest that was tried and does not fit card or host.
    `positions`: those of a model by name. `traced`: blocks of the traces, None where they have all.
    """

    card: str
    length: int
    too_long: int | None
    bound: str
    settings: Settings
    total: int
    limit: int
    host: HostProfile | None
    step: Estimate | None
    positions: int | None
    traced: tuple[int, int] | None

    @property
    def basis(self) -> str:
        """What the figures come from."""
        if self.traced is None:
            return "traces of the whole step, predicted"
        fewer, more = self.traced
        return f"traces of {fewer} and {more} blocks, from which those of all are counted; predicted"

    def as_json(self, ram: float | None) -> dict[str, object]:
        """Bytes, tokens, and tokens per second from the least to the most."""
        return {
            "card": self.card,
            "longest_tokens": self.length,
            "too_long_tokens": self.too_long,
            "bound": self.bound,
            "settings": spelled(self.settings),
            "total_bytes": self.total,
            "limit_bytes": self.limit,
            "host": None if self.host is None else self.host.as_json(ram),
            "tokens_per_second": None if self.step is None else list(self.step.tokens_per_second),
            "positions": self.positions,
            "basis": self.basis,
        }


class _Traced(NamedTuple):
    """What a trace said: bytes at upper bounds, and its operations."""

    total: int
    allocated: int
    work: Trace


def _traced(profile: Profile) -> _Traced:
    """A trace without events and storages: several of long sequences would fill a laptop."""
    work = Trace(refreshes=profile.trace.refreshes)
    work.operations = profile.trace.operations
    return _Traced(profile.total.high, profile.allocated.high, work)


class Search:
    """Lengths of one recipe on one card, each traced once."""

    def __init__(self, loaded: LoadedRecipe, card: Card, progress: Callable[[str], None] = lambda text: None) -> None:
        self.loaded, self.card, self.progress = loaded, card, progress
        self.positions = _positions(loaded)
        blocks = loaded.recipe.model.num_hidden_layers
        sampled = Sampled.of(loaded.recipe, blocks)
        times = sampled.times(blocks) if sampled else {}
        self.traced = (sampled.fewer, sampled.fewer + 1) if sampled else None
        # settings of each trace, and how often it is counted
        self._samples = [(each.settings, of) for each, of in times.items()] or [({}, 1.0)]
        self._known: dict[int, list[_Traced]] = {}

    def settings(self, length: int) -> Settings:
        """What a run of such sequences takes: all that makes them fit and computes the same, as many tokens a step."""
        recipe = self.loaded.recipe
        tokens = recipe.train.global_batch_size * recipe.data.max_length
        found: Settings = {
            "data.max_length": length,
            "train.global_batch_size": max(1, round(tokens / length)),
            "train.micro_batch_size": 1,
            "eval.micro_batch_size": None,
            "train.gradient_checkpointing": True,
            "train.offload_activations": True,
            "train.tile_tokens": recipe.train.tile_tokens or "auto",
        }
        if recipe.model.has_own_dimensions and length > recipe.model.max_position_embeddings:
            found["model.max_position_embeddings"] = length
        elif self.positions is not None and length > self.positions:
            found["model.rope"] = {"type": "yarn", "factor": float(math.ceil(length / self.positions))}
        return found

    def changed(self, length: int, settings: Settings | None = None) -> LoadedRecipe:
        """The recipe with sequences of that length.

        Raises:
            UserError: it contradicts itself then.
        """
        other = changed(self.loaded, self.settings(length) | (settings or {}))
        if other is None:
            what = f"the recipe cannot have sequences of {length:,} tokens beside its other settings"
            recipe = self.loaded.recipe
            bound = {
                "train.length_stages": recipe.train.length_stages, "data.task": recipe.data.task, "model.rope": recipe.model.rope,
            }  # fmt: skip
            given = [key for key, value in bound.items() if value]
            raise UserError(what, where="--longest", fix=f"leave out {' and '.join(given)}" if given else "")
        return other

    def longest(self, ram: float | None, most: int = MOST, tries: int = TRIES) -> Longest:
        """The longest that fits the card, and a machine with `ram` GiB.

        Raises:
            UserError: the model cannot be built or traced.
        """
        on_card = largest(self.total, self.card.usable_low, STEP, FIRST, most, tries)
        found, bound = on_card, "card" if on_card.too_large is not None else "search"
        if ram is not None and on_card.fits:
            on_host = self._on_host(ram, on_card.fits)
            if on_host.fits < on_card.fits:
                found, bound = on_host, "host"
        length = found.fits
        self.progress("time")
        return Longest(
            self.card.name,
            length,
            found.too_large,
            bound,
            self.settings(length) if length else {},
            round(self.total(length or STEP)),
            self.card.usable_low,
            host_profile(self.changed(length or STEP), "cuda") if length or bound == "host" else None,
            self.duration(length) if length else None,
            self.positions,
            self.traced,
        )

    def total(self, length: int) -> float:
        """Bytes on the card, upper bound: what is handed out grows by block, what lies idle is that of one block."""
        traces = self._traces(length)
        last = traces[-1]
        if self.traced is None:
            return last.total
        whole = sum(of * each.allocated for each, (_, of) in zip(traces, self._samples, strict=True))
        idle = max(each.total - each.allocated for each in traces)
        return last.allocated + idle + (1 + IDLE) * max(0, whole - last.allocated)

    def duration(self, length: int) -> Estimate | None:
        """How long a step of such sequences takes."""
        traces, whole = self._traces(length), self.changed(length)
        flops = dry_run(whole).costs.needed_flops_per_token
        found = [duration_on(whole, each.work, self.card, flops) for each in traces]
        steps = [(of, each) for each, (_, of) in zip(found, self._samples, strict=True) if each is not None]
        return combined(steps) if steps else None

    def _on_host(self, ram: float, most: int) -> Found:
        """The longest that the host has room for, by halves: nothing is traced for it."""
        low, high = 0, most // STEP + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = host_profile(self.changed(middle * STEP), "cuda").fits(ram)
            low, high = (middle, high) if fits else (low, middle)
        return Found(low * STEP, high * STEP if high * STEP <= most else None)

    def _traces(self, length: int) -> list[_Traced]:
        if length not in self._known:
            self.progress(f"sequences of {length:,} tokens")
            traced = (profile_on(self.changed(length, settings), self.card) for settings, _ in self._samples)
            self._known[length] = [_traced(each) for each in traced]
        return self._known[length]


def _positions(loaded: LoadedRecipe) -> int | None:
    """Positions that a model by name has."""
    section = loaded.recipe.model
    if section.has_own_dimensions or section.rope is not None:
        return None
    if section.published is not None:
        return positions_of(public_config(section.published))
    return positions_of(read_config(locate(str(section.name_or_path), Path(loaded.base_dir)), section.revision))
