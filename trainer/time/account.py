"""Where the seconds of a profiled step went: the events of its trace, by the part of the step that each belongs to."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from galore.kernels.span import PARTS, PREFIX

Event = Mapping[str, Any]  # of Chrome's trace format: times and durations in microseconds
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
RUNTIME = ("cuda_runtime", "cuda_driver")
OTHER, IDLE, WAITS = "other", "device idle", "host waits"
MICRO = 1e-6


@dataclass(frozen=True)
class Account:
    """Seconds of one step or of several: `parts` make up `seconds`; of `beside` are those that go on at the same time.

    On a CPU the parts are what the program was in. On a GPU they are what its kernels were launched for, and the time
    in which it had none; beside that the host prepared data, and waited.
    """

    steps: int
    seconds: float
    parts: Mapping[str, float]
    beside: Mapping[str, float]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Self:
        """The account of a trace with one step in it.

        Raises:
            ValueError: there is none.
        """
        spans = [each for each in events if each.get("cat") == "user_annotation" and _part(each)]
        step = next((each for each in spans if _part(each) == "step"), None)
        if step is None:
            raise ValueError("the trace has no step in it")
        threads = {thread: Timeline.of([each for each in spans if each["tid"] == thread]) for thread in _threads(spans)}
        host = threads[step["tid"]].seconds
        whole = step["dur"] * MICRO
        kernels = [each for each in events if each.get("cat") in ON_DEVICE]
        if not kernels:
            return cls(1, whole, _ordered(host), {})
        device = _launched(kernels, events, threads, threads[step["tid"]])
        device[IDLE] = max(0.0, whole - _busy(kernels))
        waits = sum(each["dur"] for each in events if _is_wait(each)) * MICRO
        return cls(1, whole, _ordered(device), {"data": host["data"], WAITS: waits})

    @classmethod
    def together(cls, accounts: Sequence[Account]) -> Self:
        """Several steps as one account."""
        parts, beside = Counter[str](), Counter[str]()
        for each in accounts:
            parts.update(each.parts)
            beside.update(each.beside)
        seconds = sum(each.seconds for each in accounts)
        return cls(len(accounts), seconds, _ordered(parts), dict(beside))

    def rows(self) -> list[tuple[str, float, float]]:
        """(part, seconds of a step in the mean, share of its time), those beside at the end."""
        every = [*self.parts.items(), *self.beside.items()]
        return [(name, seconds / self.steps, seconds / self.seconds) for name, seconds in every]

    def as_json(self) -> dict[str, Any]:
        return {"steps": self.steps, "seconds": self.seconds, "parts": dict(self.parts), "beside": dict(self.beside)}


def host_seconds(events: Iterable[Event]) -> dict[str, float]:
    """Seconds of the host by part, all threads together and waiting included, of a trace with one step or several."""
    spans = [each for each in events if each.get("cat") == "user_annotation" and _part(each)]
    seconds = Counter[str]()
    for thread in _threads(spans):
        seconds.update(Timeline.of([each for each in spans if each["tid"] == thread]).seconds)
    return _ordered(seconds)


@dataclass(frozen=True)
class Timeline:
    """Spans of one thread: `parts[i]` is the innermost from `times[i]` on; `seconds` of each, those in it left out."""

    times: Sequence[float]
    parts: Sequence[str]
    seconds: Counter[str]

    @classmethod
    def of(cls, spans: Iterable[Event]) -> Self:
        times, parts, seconds = list[float](), list[str](), Counter[str]()
        open_ones = list[tuple[float, str]]()  # (end, part), the innermost last

        def change(at: float, part: str) -> None:
            times.append(at)
            parts.append(part)

        def close(until: float) -> None:
            while open_ones and open_ones[-1][0] <= until:
                end, _ = open_ones.pop()
                change(end, open_ones[-1][1] if open_ones else "")

        for each in sorted(spans, key=lambda span: (span["ts"], -span["dur"])):
            close(each["ts"])
            if open_ones:
                seconds[_named(open_ones[-1][1])] -= each["dur"] * MICRO
            seconds[_named(_part(each))] += each["dur"] * MICRO
            open_ones.append((each["ts"] + each["dur"], _part(each)))
            change(each["ts"], _part(each))
        close(float("inf"))
        return cls(times, parts, seconds)

    def at(self, time: float) -> str:
        """The innermost part at this time; empty where there is none."""
        place = bisect_right(self.times, time) - 1
        return self.parts[place] if place >= 0 else ""


def _launched(
    kernels: Sequence[Event], events: Sequence[Event], threads: Mapping[Any, Timeline], main: Timeline
) -> Counter[str]:
    """Seconds of kernels by the part in which they were launched: in autograd's thread what the main one waits in."""
    launches = {_correlation(each): each for each in events if each.get("cat") in RUNTIME}
    found, empty = Counter[str](), Timeline.of([])
    for each in kernels:
        launch = launches.get(_correlation(each))
        part = "" if launch is None else threads.get(launch["tid"], empty).at(launch["ts"]) or main.at(launch["ts"])
        found[_named(part)] += each["dur"] * MICRO
    return found


def _busy(kernels: Sequence[Event]) -> float:
    """Seconds in which at least one of them ran."""
    busy, until = 0.0, float("-inf")
    for each in sorted(kernels, key=lambda kernel: kernel["ts"]):
        end = each["ts"] + each["dur"]
        busy += max(0.0, end - max(each["ts"], until))
        until = max(until, end)
    return busy * MICRO


def _is_wait(event: Event) -> bool:
    name = str(event.get("name"))
    return event.get("cat") in RUNTIME and ("Synchronize" in name or name == "cudaMemcpy")


def _correlation(event: Event) -> Any:
    return event.get("args", {}).get("correlation")


def _part(event: Event) -> str:
    name = str(event.get("name"))
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""


def _named(part: str) -> str:
    """What of a step is in none of its parts is the rest of it."""
    return OTHER if part in ("", "step") else part


def _threads(spans: Iterable[Event]) -> list[Any]:
    return list(dict.fromkeys(each["tid"] for each in spans))


def _ordered(seconds: Mapping[str, float]) -> dict[str, float]:
    names = (*(part for part in PARTS if part != "step"), OTHER, IDLE)
    return {name: seconds[name] for name in names if name in seconds}
