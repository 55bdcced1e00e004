"""What the page of a timeline is drawn from, as JSON: every moment of a curve, and what holds the memory then."""

from __future__ import annotations

from typing import Any

import numpy as np

from galore.trainer.common.page import as_script
from galore.trainer.memory.categories import COLORS, spoken
from galore.trainer.memory.chart.curve import STACK, Curve, Ints
from galore.trainer.memory.peak import Kind, largest
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.verdict import out_of_memory, runs_out, unit_of

HOLDERS = 6  # of each moment


class Words(dict[str, int]):
    """Numbers of strings that are said many times: a string's number is when it was first said."""

    def __missing__(self, word: str) -> int:
        self[word] = len(self)
        return self[word]


def embedded(profile: Profile, curve: Curve) -> str:
    """JSON that can stand between script tags, whatever the names in it.

    Numbers that change little are differences to the one before (`moments`, `parts`, `reserved`); categories, strings
    and kinds of tensors are numbers of the entries in `names`, `words` and `kinds`.
    """
    return as_script(_document(profile, curve))


def _document(profile: Profile, curve: Curve) -> dict[str, Any]:
    words = Words()
    unit, unit_name = unit_of(profile)
    at = curve.moments.tolist()
    return {
        "names": [(spoken(name), COLORS[name]) for name in STACK],
        "unit": unit,
        "unitName": unit_name,
        "card": profile.card.name,
        "limit": (profile.limit.low, profile.limit.high),
        "events": len(profile.trace.events),
        "stages": [(each.start, round(each.left, 6), each.phase, each.name) for each in curve.stages],
        "moments": _steps(curve.moments),
        "parts": [_steps(part) for part in curve.parts.values()],
        "reserved": _steps(curve.reserved),
        "peak": curve.peak,
        "oom": runs_out(profile),
        "oomText": out_of_memory(profile),
        "acts": [_act(profile.trace, event, words) for event in at],
        **_held(profile.trace, at, words),
        "words": list(words),  # last: all have been said
    }


def _steps(values: Ints) -> list[int]:
    found: list[int] = np.diff(values, prepend=0).tolist()
    return found


def _act(trace: Trace, event: int, words: Words) -> tuple[int, int, int, int]:
    """What happens at an event: bytes taken, or given back if negative, of which category, made by what."""
    number = trace.events[event]
    each = trace.allocations[abs(number) - 1]
    taken = each.high if number > 0 else -each.high
    return taken, STACK.index(each.category), words[each.module], words[told(each.category, each.op)]


def told(category: str, op: str) -> str:
    """What made a tensor; nothing where it was only found there and labelled."""
    return "" if op == category else op


def _held(trace: Trace, at: list[int], words: Words) -> dict[str, Any]:
    numbers: dict[Kind, int] = {}
    held = [
        [(numbers.setdefault(kind, len(numbers)), count) for kind, count in found]
        for found in largest(trace, at, HOLDERS)
    ]
    kinds = [
        (
            STACK.index(kind.category),
            words[kind.module],
            words[told(kind.category, kind.op)],
            kind.shape,
            kind.dtype,
            kind.nbytes,
        )
        for kind in numbers
    ]
    return {"held": held, "kinds": kinds}
