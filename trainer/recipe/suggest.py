"""The nearest known word, by edit distance."""

from __future__ import annotations

from collections.abc import Iterable

SHORTEST = 2  # letters: one change makes any such word into any other


def distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment)."""
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
    return last[-1]


def plain(word: str) -> str:
    """`word` as it compares: `Learning-Rate`, `learningRate` and `learning_rate` are one."""
    return "".join(letter for letter in word.lower() if letter.isalnum())


def nearest(word: str, known: Iterable[str], count: int = 1) -> list[str]:
    """At most `count` words of `known` that `word` may have meant, the nearest first; none that is too far away."""
    limit = max(len(plain(word)) // 3, len(plain(word)) > SHORTEST)
    ranked = sorted((distance(plain(word), plain(each)), index, each) for index, each in enumerate(known))
    return [each for steps, _, each in ranked if steps <= limit][:count]
