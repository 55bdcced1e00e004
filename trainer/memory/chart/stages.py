"""The stages of a traced run, and how wide each is drawn: forward, backward and update of every kind of step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from math import sqrt

from galore.trainer.memory.trace.trace import Trace

LEAST_EVENTS = 1e-3  # of all, to be a stage of its own
LEAST_SHARE = 0.05  # of the width, for a phase however short


@dataclass(frozen=True)
class Stage:
    """Events `start` to `end`, the latter excluded, drawn from `left` to `right` of an axis from 0 to 1.

    `name` is such as "forward 2": of a phase's forwards, where it has several, the second.
    """

    start: int
    end: int
    phase: str
    name: str
    left: float
    right: float


def stages(trace: Trace) -> list[Stage]:
    """The stages of `trace` in order, none without an event.

    Events are not time: an update has ten times the events of a forward. A stage's width grows with the square root of
    its events, so that all can be read.
    """
    stretches = _stretches(trace)
    names = _numbered([what for _, _, what in stretches])
    widths = _widths([end - start for start, end, _ in stretches], [phase for phase, _ in names])
    found, left = [], 0.0
    for (start, end, _), (phase, name), width in zip(stretches, names, widths, strict=True):
        found.append(Stage(start, end, phase, name, left, left + width))
        left += width
    return found


def edges(found: list[Stage]) -> tuple[list[int], list[float]]:
    """Where stages meet, ends included: as indices of events, and as places on the axis."""
    return [*(stage.start for stage in found), found[-1].end], [*(stage.left for stage in found), 1.0]


def _stretches(trace: Trace) -> list[tuple[int, int, str]]:
    """(first event, end, mark). What is too short to be seen, as between two micro-batches, goes with what precedes."""
    marks = dict([(0, ""), *trace.marks, (len(trace.events), "")])  # of two marks at one event, the later
    found: list[tuple[int, int, str]] = []
    for start, end in pairwise(sorted(marks)):
        if found and end - start < LEAST_EVENTS * len(trace.events):
            start, _, mark = found.pop()
        else:
            mark = marks[start]
        found.append((start, end, mark))
    return found


def _numbered(marks: list[str]) -> list[tuple[str, str]]:
    """(phase, stage) of each mark; stages of one name within a phase are counted."""
    found = []
    for phase, run in groupby((what.partition(": ")[::2] for what in marks), key=lambda pair: pair[0]):
        names = [name for _, name in run]
        for position, name in enumerate(names):
            turn = f" {names[: position + 1].count(name)}" if names.count(name) > 1 else ""
            found.append((phase, name + turn))
    return found


def _widths(events: list[int], phases: list[str]) -> list[float]:
    """The width of each stage; 1 together."""
    roots = [sqrt(count) for count in events]
    runs = [[root for _, root in run] for _, run in groupby(zip(phases, roots, strict=True), key=lambda pair: pair[0])]
    spare = max(0.0, 1 - LEAST_SHARE * len(runs))
    least = (1 - spare) / len(runs)
    return [root * (spare / sum(roots) + least / sum(run)) for run in runs for root in run]
