"""Tensors that lie in parts, on their way into a checkpoint that the first rank writes: gathered one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from torch import Tensor

from galore.trainer.checkpoint.state import Groups
from galore.trainer.checkpoint.tensorfile import Parted, Stored, in_order
from galore.trainer.parallel.group import Group, RankLost


@contextmanager
def giving(groups: Groups, ranks: Group) -> Iterator[Groups]:
    """The groups for the first rank to write, in a context in which the others give their parts of what it asks for.

    Before each tensor it says whether it goes on: where it breaks off, or has no room to begin, nobody is left waiting.
    """
    if not ranks.is_first:
        _give(groups, ranks)
        yield groups
        return
    try:
        yield {name: {key: _asked_for(value, ranks) for key, value in group.items()} for name, group in groups.items()}
    finally:
        with suppress(RankLost):  # then there is nobody to tell
            ranks.from_first(False)


def _give(groups: Groups, ranks: Group) -> None:
    for group in groups.values():
        for value in (group[name] for name in in_order(group)):
            if isinstance(value, Parted):
                if not ranks.from_first():
                    return
                value.gather()
    ranks.from_first()


def _asked_for(value: Stored, ranks: Group) -> Stored:
    if not isinstance(value, Parted):
        return value

    def gather() -> Tensor:
        ranks.from_first(True)
        return value.gather()

    return replace(value, gather=gather)
