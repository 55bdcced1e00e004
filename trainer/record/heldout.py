"""The held-out losses of a run by step: which was the lowest, and how many evaluations came since."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

from galore.trainer.record.row import loss_of


class HeldOut:
    """Losses, or squared errors, in the order of the steps. The score before the first step does not count."""

    def __init__(self) -> None:
        self._losses = dict[int, float]()

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], until: int | None = None) -> Self:
        """The losses in the rows of a metrics file, those after step `until` left out."""
        held_out = cls()
        for row in rows:
            if until is None or row["step"] <= until:
                held_out.add(row)
        return held_out

    def add(self, row: Mapping[str, Any]) -> None:
        """Take up a row of the metrics if it is an evaluation; a loss that is no number is none."""
        loss = loss_of(row)
        if row.get("kind") == "eval" and row["step"] > 0:
            self._losses[row["step"]] = loss if isinstance(loss, float | int) and math.isfinite(loss) else math.inf

    @property
    def best(self) -> int | None:
        """The step of the lowest loss, the first of equal ones; None where there is none."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[int]:
        """Steps whose loss is a number: that of the lowest first, the first of equal ones before the others."""
        known = (step for step, loss in self._losses.items() if loss < math.inf)
        return sorted(known, key=lambda step: self._losses[step])

    @property
    def since_best(self) -> int:
        """Evaluations after that of the lowest loss; all of them where no loss is a number."""
        steps = list(self._losses)
        best = self.best
        return len(steps) - (0 if best is None else steps.index(best) + 1)
