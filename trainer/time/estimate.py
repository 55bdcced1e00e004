"""Seconds of a step, part by part: device, host and bus at the same time, the slowest of them counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from galore.trainer.memory.trace.trace import Operation
from galore.trainer.time.work import Kind, work_of

PER_MICRO_BATCH = ("forward", "backward")
BUS: tuple[Kind, ...] = ("to host", "from host")


class Rates(Protocol):
    """How fast a device does what it is asked for; copies over the bus go on `beside` its computation, or before it."""

    @property
    def beside(self) -> bool: ...

    def seconds(self, operation: Operation) -> float:
        """Time on the device; of a copy over the bus on the bus."""

    def asked(self, operation: Operation) -> float:
        """Time of the host until the device has been asked for it."""


@dataclass
class Part:
    """Seconds of one part of a step, such as its backward: of the device by kind of work, of the host, of the bus."""

    device: Counter[str] = field(default_factory=Counter)
    host: float = 0.0
    bus: Counter[str] = field(default_factory=Counter)

    def add(self, kind: Kind, seconds: float, asked: float = 0.0) -> None:
        """Work of that kind: `seconds` of the device, or the bus, and `asked` of the host."""
        self.host += asked
        where = self.bus if kind in BUS else self.device
        where[kind] += seconds  # type: ignore[assignment]

    @property
    def seconds(self) -> float:
        """Time of the slowest: they go on at the same time."""
        return max(self.claims().values())

    def claims(self) -> dict[str, float]:
        """What each of those who work at the same time would take alone."""
        return {"card": sum(self.device.values()), "host": self.host, "bus": max(self.bus.values(), default=0.0)}


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step of one kind, by part."""

    parts: dict[str, Part]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts.values())

    @property
    def bound(self) -> str:
        """Whom most of the step waits for: "card", "host" or "bus"."""
        waited: Counter[str] = Counter()
        for part in self.parts.values():
            claims = part.claims()
            waited[max(claims, key=claims.__getitem__)] += part.seconds  # type: ignore[assignment]
        return max(waited, key=waited.__getitem__, default="card")

    def by_kind(self) -> dict[str, float]:
        """Seconds of the device by kind of work."""
        found: Counter[str] = Counter()
        for part in self.parts.values():
            found.update(part.device)
        return dict(found)


def step_of(operations: Iterable[Operation], phase: str, traced: int, accumulation: int, rates: Rates) -> Step:
    """The step of that kind, such as "ordinary step".

    Args:
        traced: micro-batches that the trace of it has. `accumulation`: those that a real step has.
    """
    parts: dict[str, Part] = {}
    for operation in operations:
        counts = {stage: count for (of, stage), count in operation.counts.items() if of == phase}
        if not counts:
            continue
        kind, seconds, asked = work_of(operation).kind, rates.seconds(operation), rates.asked(operation)
        if kind in BUS and not rates.beside:
            kind = "pass"
        for stage, count in counts.items():
            often = count * (accumulation / traced if stage in PER_MICRO_BATCH else 1.0)
            parts.setdefault(stage, Part()).add(kind, often * seconds, often * asked)
    return Step(parts)


def mixed(steps: Iterable[tuple[float, Step]]) -> Step:
    """A step of many blocks from those of few: so many times each."""
    parts: dict[str, Part] = {}
    for times, step in steps:
        for name, part in step.parts.items():
            into = parts.setdefault(name, Part())
            into.host += times * part.host
            for kinds, of in ((into.device, part.device), (into.bus, part.bus)):
                for kind, seconds in of.items():
                    kinds[kind] += times * seconds  # type: ignore[assignment]
    return Step(parts)


Range = tuple[float, float]
APART = "without what the processes send"


@dataclass(frozen=True)
class Estimate:
    """Steps of a run, each at the least and at the most of the device's rates: (slowest, fastest).

    Attributes:
        refreshes: refresh steps' worth of additional work in a step, in the mean.
        tokens: of a step. `flops`: of a step, forward and backward once, as MFU counts them; None if unknown.
        peak: FLOP/s that MFU is the share of.
        basis: where the rates are from.
        peak_of: the type that `peak` is of, where products are made in another, faster one; else empty.
    """

    ordinary: Sequence[Step]
    refresh: Sequence[Step] | None
    refreshes: float
    tokens: int
    flops: float | None
    peak: float | None
    basis: str
    peak_of: str = ""

    @property
    def seconds(self) -> Range:
        """(least, most) of a step, refreshes spread over all."""
        slow, fast = (self._mean(index) for index in (0, 1))
        return fast, slow

    @property
    def tokens_per_second(self) -> Range:
        least, most = self.seconds
        return self.tokens / most, self.tokens / least

    @property
    def mfu(self) -> Range | None:
        """Share of the peak by what training needs, recomputation left out."""
        if self.flops is None or self.peak is None:
            return None
        least, most = self.seconds
        return self.flops / most / self.peak, self.flops / least / self.peak

    def of(self, processes: int, shares: float) -> Estimate:
        """`processes` at the same time, all of them so many times this one's tokens; what they send is not in it."""
        if processes == 1:
            return self
        flops = None if self.flops is None else self.flops * shares
        peak = None if self.peak is None else self.peak * processes
        basis = f"{self.basis}; {APART}"
        return replace(self, tokens=round(self.tokens * shares), flops=flops, peak=peak, basis=basis)

    def _mean(self, index: int) -> float:
        ordinary = self.ordinary[index].seconds
        more = max(0.0, self.refresh[index].seconds - ordinary) if self.refresh else 0.0
        return ordinary + self.refreshes * more

    def as_json(self) -> dict[str, object]:
        """Seconds throughout; ranges from the least to the most."""
        slow, fast = self.ordinary
        return {
            "seconds_per_step": list(self.seconds),
            "tokens_per_second": list(self.tokens_per_second),
            "mfu_fraction": None if self.mfu is None else list(self.mfu),
            "ordinary_step_seconds": [fast.seconds, slow.seconds],
            "refresh_step_seconds": None if self.refresh is None else [each.seconds for each in reversed(self.refresh)],
            "parts": {name: [fast.parts[name].seconds, part.seconds] for name, part in slow.parts.items()},
            "device_seconds_by_kind": {
                kind: [fast.by_kind()[kind], seconds] for kind, seconds in slow.by_kind().items()
            },
            "bound": slow.bound,
            "basis": self.basis,
        }


def combined(estimates: Sequence[tuple[float, Estimate]]) -> Estimate:
    """An estimate from several of as many tokens, so many times each; refreshes are spread over all steps."""

    def spread(index: int) -> Step:
        shares = ((times, each, each.refreshes if each.refresh else 0.0) for times, each in estimates)
        return mixed(
            pair
            for times, each, share in shares
            for pair in (
                (times * (1 - share), each.ordinary[index]),
                (times * share, (each.refresh or each.ordinary)[index]),
            )
        )

    ordinary = tuple(mixed((times, each.ordinary[index]) for times, each in estimates) for index in (0, 1))
    return replace(estimates[0][1], ordinary=ordinary, refresh=(spread(0), spread(1)), refreshes=1.0)
