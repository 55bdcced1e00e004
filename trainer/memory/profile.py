"""What a traced run needs on a card: what PyTorch's allocator makes of it, the context beside it, whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from galore.trainer.machine.cards import Card
from galore.trainer.memory.allocator.allocator import Replay, replay
from galore.trainer.memory.peak import Peak, peak_of, phases
from galore.trainer.memory.trace.trace import Trace


@dataclass(frozen=True)
class Bounds:
    """Bytes: `low` and `high` differ where something cannot be known without the card."""

    low: int
    high: int


@dataclass(frozen=True)
class Profile:
    """A trace on a card, `expandable` or not as the run will set its allocator."""

    trace: Trace
    card: Card
    expandable: bool
    _replays: dict[tuple[bool, bool], Replay] = field(default_factory=dict, init=False, repr=False, compare=False)

    def replayed(self, expandable: bool, high: bool = True) -> Replay:
        """The whole trace with boundless memory."""
        key = expandable, high or self._exact
        if key not in self._replays:
            self._replays[key] = replay(self.trace.sizes(key[1]), self.trace.events, expandable=expandable)
        return self._replays[key]

    @cached_property
    def _exact(self) -> bool:
        """Whether all sizes are known."""
        return self.trace.sizes(high=False) == self.trace.sizes(high=True)

    @cached_property
    def peak(self) -> Peak:
        """Where most memory is handed out."""
        return peak_of(self.trace, self.replayed(self.expandable).peak_event)

    @cached_property
    def phases(self) -> dict[str, int]:
        """Most bytes asked for in each kind of step."""
        return phases(self.trace)

    @property
    def allocated(self) -> Bounds:
        """Handed out at the peak, rounding included (torch.cuda.max_memory_allocated)."""
        return self._bounds("peak_allocated", self.expandable)

    def reserved(self, expandable: bool) -> Bounds:
        """Taken from the device (torch.cuda.max_memory_reserved)."""
        return self._bounds("peak_reserved", expandable)

    @property
    def total(self) -> Bounds:
        """What nvidia-smi shows for the process: reserved, and the context."""
        reserved = self.reserved(self.expandable)
        return Bounds(reserved.low + self.card.context_low, reserved.high + self.card.context_high)

    @property
    def limit(self) -> Bounds:
        """What the card has, the driver's own share taken off."""
        return Bounds(self.card.usable_low, self.card.usable_high)

    @cached_property
    def fits(self) -> bool | None:
        """Whether the run gets through on the card; None where that depends on what is not known here."""
        return self.fits_with(self.expandable)

    def fits_with(self, expandable: bool) -> bool | None:
        """`fits`, with that setting of the allocator. The replay gives cached memory back before it gives up."""
        if self._gets_through(expandable, True, self.card.usable_low - self.card.context_high):
            return True
        return None if self._gets_through(expandable, False, self.card.usable_high - self.card.context_low) else False

    def _gets_through(self, expandable: bool, high: bool, room: int) -> bool:
        if self.replayed(expandable, high).peak_reserved <= room:
            return True
        return replay(self.trace.sizes(high), self.trace.events, limit=room, expandable=expandable).oom_event is None

    def _bounds(self, what: str, expandable: bool) -> Bounds:
        low, high = (getattr(self.replayed(expandable, high), what) for high in (False, True))
        return Bounds(min(low, high), max(low, high))

    @property
    def categories(self) -> dict[str, int]:
        """Bytes at the peak by name; with the allocator's overhead and the context they add up to `total.high`."""
        overhead = self.reserved(self.expandable).high - self.peak.requested
        return self.peak.categories | {"allocator_overhead": overhead, "cuda_context": self.card.context_high}

    def as_json(self) -> dict[str, object]:
        """The profile as one JSON object; bytes throughout, upper bounds where there are two."""
        return {
            "card": self.card.name,
            "card_assumed": self.card.assumed or None,
            "peak_allocated_bytes": self.allocated.high,
            "peak_reserved_bytes": {"default": self.reserved(False).high, "expandable": self.reserved(True).high},
            "total_bytes": self.total.high,
            "total_bytes_range": [self.total.low, self.total.high],
            "limit_bytes": self.limit.low,
            "limit_bytes_range": [self.limit.low, self.limit.high],
            "fits": self.fits,
            "expandable_segments": self.expandable,
            "fits_with": {"default": self.fits_with(False), "expandable": self.fits_with(True)},
            "categories": self.categories,
            "peak": {"phase": self.peak.phase, "module": self.peak.module, "operation": self.peak.op},
            "phases": self.phases,
        }
