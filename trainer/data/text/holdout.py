"""Which documents are held out: decided by their content, so that a copy is always on the same side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HASH_BITS = 64


def content_hash(text: str) -> int:
    """64 bits of the text without the white space around it."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=HASH_BITS // 8).digest(), "little")


def is_held_out(hashed: int, fraction: float) -> bool:
    """True for about `fraction` of all contents; no document changes sides when others come or go."""
    return hashed < fraction * (1 << HASH_BITS)


SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def working_share(sizes: Iterable[tuple[int, float]], enough: float) -> float | None:
    """The smallest round share at which what is held out and what remains are both `enough`; None if there is none.

    Args:
        sizes: (content hash, size) of every document, in the unit of `enough`.
    """
    held, rest = dict.fromkeys(SHARES, 0.0), dict.fromkeys(SHARES, 0.0)
    for hashed, size in sizes:
        for share in SHARES:
            side = held if is_held_out(hashed, share) else rest
            side[share] += size
    return next((share for share in SHARES if min(held[share], rest[share]) >= enough), None)


class Holdout:
    """Sorts documents into training and validation.

    Either a share of the contents is held out, or exactly those contents that `reserve` has seen: then a training
    document with one of these contents is dropped and counted.
    """

    def __init__(self, fraction: float | None) -> None:
        self.fraction = fraction  # None: only what was reserved
        self._reserved = set[int]()
        self.num_reserved = self.num_dropped = 0

    def reserve(self, text: str) -> None:
        """Never train on this content."""
        self._reserved.add(content_hash(text))
        self.num_reserved += 1

    def release(self) -> None:
        """Forget what was reserved."""
        self._reserved, self.num_reserved = set(), 0

    def side(self, text: str) -> str | None:
        """`train`, `validation`, or None for a document that is dropped."""
        hashed = content_hash(text)
        if self.fraction is not None and is_held_out(hashed, self.fraction):
            return "validation"
        if hashed in self._reserved:
            self.num_dropped += 1
            return None
        return "train"
