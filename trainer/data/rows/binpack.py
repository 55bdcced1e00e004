"""Best-fit decreasing: short things into few bins of one size, none of them cut."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def best_fit(lengths: Ids, capacity: int) -> Ids:
    """The bin of each thing, (n,): longest first, each into the fullest bin that has room for it.

    Needs at most 11/9 of the fewest bins possible, plus one (Johnson 1973). Bins are numbered by the first thing in
    them, so that the numbers follow the order of the things as far as they can. Deterministic; n log(capacity) steps.

    Args:
        lengths: (n,), each in 1 … capacity.
    """
    bins = np.empty(len(lengths), np.int64)
    open_bins: dict[int, list[int]] = {}  # room → bins that have it
    rooms: list[int] = []  # the keys of `open_bins`, sorted
    count = 0
    for thing in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[thing])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, chosen, count = capacity, count, count + 1
        else:
            room = rooms[at]
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[at]
        bins[thing] = chosen
        _open(open_bins, rooms, room - length, chosen)
    return _in_order(bins, count)


def _open(open_bins: dict[int, list[int]], rooms: list[int], room: int, number: int) -> None:
    if room:
        if room not in open_bins:
            open_bins[room] = []
            insort(rooms, room)
        open_bins[room].append(number)


def _in_order(bins: Ids, count: int) -> Ids:
    first = np.full(count, len(bins), np.int64)
    np.minimum.at(first, bins, np.arange(len(bins)))
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(count)
    return rank[bins]
