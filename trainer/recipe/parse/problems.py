"""What can be wrong with a recipe, and the one error that carries all of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from galore.trainer.common.errors import UserError

MOST_TOLD = 20  # problems of a recipe; the rest is counted, and nobody guesses what was meant by it


@dataclass(frozen=True)
class Place:
    """Where something was written.

    Attributes:
        source: the file, the shipped name, or the override.
        line, column: counted from 1; 0 for the source as a whole.
        text: the scalar as written, before YAML gave it a type; None for lists and mappings.
        directory: what a relative path written here is relative to.
    """

    source: str
    line: int = 0
    column: int = 0
    text: str | None = None
    directory: Path = Path()

    @property
    def is_override(self) -> bool:
        """Whether it was written on the command line, which has no lines."""
        return self.line == 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One thing to mend: where, which key, what is wrong, what to write instead."""

    place: Place
    key: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        head = ": ".join(filter(None, (str(self.place), indexed(self.key), self.what)))
        return f"{head}\n    → {self.fix}" if self.fix else head


def indexed(key: str) -> str:
    """A key in a list as people write it: `data.sources.0.split` as `data.sources[0].split`."""
    return re.sub(r"\.(\d+)", r"[\1]", key)


class RecipeError(UserError):
    """Everything that is wrong with a recipe: its own lines in their order, then what it extends, then overrides."""

    def __init__(self, origin: str, problems: Iterable[Problem]) -> None:
        def order(problem: Problem) -> tuple[bool, bool, str, int, int]:
            place = problem.place
            return place.source != origin, place.line == 0, place.source, place.line, place.column

        self.problems = sorted(dict.fromkeys(problems), key=order)
        count = "1 error" if len(self.problems) == 1 else f"{len(self.problems):,} errors"
        told = [f"  {problem}" for problem in self.problems[:MOST_TOLD]]
        more = [f"  … and {len(self.problems) - MOST_TOLD:,} more"] if len(self.problems) > MOST_TOLD else []
        super().__init__("\n".join([f"{origin}: {count}", *told, *more]))
