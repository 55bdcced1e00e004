"""The shape of a kernel's tiles: how many rows, columns and summands a program takes, its warps and pipeline stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Tile:
    """`rows` × `columns` of the result, `depth` summands at a time, the sum in `split` parts that are added afterwards.

    `group` rows of tiles run one after another, so that they share operands in the L2 cache. No result depends on a
    tile except by the order of fp32 sums: rounding is keyed by the element.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: int = 1
    group: int = 8

    def constants(self) -> dict[str, int]:
        """The sizes as the kernels name them."""
        return {"BM": self.rows, "BN": self.columns, "BK": self.depth, "GROUP": self.group}

    def even(self, rows: int, columns: int, summands: int) -> bool:
        """Whether tiles cover a product of that shape without remainder, in each of the split's parts."""
        depth = self.depth * self.split
        return rows % self.rows == 0 and columns % self.columns == 0 and summands % depth == 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
