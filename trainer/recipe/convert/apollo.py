"""APOLLO as other toolkits have it, whose code multiplies updates by the square root of `scale` (apollo-torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from galore.trainer.recipe.convert.draft import Draft

MINI = 128  # what apollo-mini has under the root of itself (arXiv 2412.05270)
ROOT = "updates are multiplied by its square root there"


@dataclass(frozen=True)
class Apollo:
    """A toolkit's keys of APOLLO below `prefix`, and what it takes where the file is silent."""

    prefix: str
    rank: int
    scale: float
    scale_type: str

    def settings(self, draft: Draft) -> dict[str, Any]:
        """Recipe key → value, of the method itself."""
        method = {"optim.method": "galore", "optim.residual": self._residual(draft), "optim.proj_type": "random"}
        return method | {"optim.rank": self._given(draft, "rank"), "optim.scale": self._factor(draft)}

    def take_scale(self, draft: Draft, key: str, value: Any) -> None:
        """The rule of its scale."""
        draft.take(key, f"optim.scale: {self._factor(draft)}", value, ROOT)

    def take_type(self, draft: Draft, key: str, value: Any, note: str = "") -> None:
        """The rule of whether it has one factor of each channel or of each matrix."""
        draft.take(key, f"optim.residual: {self._residual(draft)}", value, note)

    def _factor(self, draft: Draft) -> float:
        within = MINI if self._residual(draft) == "apollo-mini" else 1
        return float(f"{math.sqrt(float(self._given(draft, 'scale')) / within):.6g}")

    def _residual(self, draft: Draft) -> str:
        return "apollo-mini" if self._given(draft, "scale_type") == "tensor" else "apollo"

    def _given(self, draft: Draft, name: str) -> Any:
        return draft.values.get(f"{self.prefix}{name}", getattr(self, name))
