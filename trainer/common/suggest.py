"""The nearest known word, by edit distance."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import means_a_path, user_path

LONGEST = 60  # letters that are compared; no known word has as many
SHORTEST = 2  # letters: one change makes any such word into any other


def distance(a: str, b: str, limit: int = LONGEST) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).

    Where they are more than `limit`, any number above it.
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
        if min(min(before), min(last)) > limit:
            return limit + 1
    return last[-1]


@lru_cache(maxsize=4096)
def plain(word: str) -> str:
    """`word` as it compares: `Learning-Rate`, `learningRate` and `learning_rate` are one."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The words of `known` that `word` may mean, the nearest first, `count` at most; none that is too far away."""
    meant = plain(word[:LONGEST])
    limit = max(len(meant) // 3, len(meant) > SHORTEST)
    ranked = sorted((distance(meant, plain(each), limit), index, each) for index, each in enumerate(known))
    return [each for steps, _, each in ranked if steps <= limit][:count]


def refuse_absent(name: str) -> None:
    """Raise UserError, with the nearest, for a path that can only be that of a run or folder, and is not there.

    Any other name is left to the hub.
    """
    folder = user_path(name)
    if folder.exists() or not (name.startswith("runs/") or means_a_path(name, Path())):
        return
    beside = [each.name for each in folder.parent.iterdir() if each.is_dir()] if folder.parent.is_dir() else []
    near = nearest(folder.name, beside)
    elsewhere = "" if name.startswith("runs/") else "name the folder of a run or model, or a hub name; "
    meant = f"did you mean {folder.parent / near[0]}? " if near else elsewhere
    fix = f"{meant}`galore runs` lists the runs"
    raise UserError("there is no such run or folder", where=name, fix=fix)
