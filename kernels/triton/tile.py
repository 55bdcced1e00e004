"""The shape of a kernel's tiles: how many rows, columns and summands a program takes, its warps and pipeline stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

SIDES = (16, 32, 64, 128, 256, 512)  # that rows, columns and depth can have: the least that tensor cores multiply
WARPS = (1, 2, 4, 8, 16, 32)
NEEDED, OPTIONAL = ("rows", "columns", "depth", "warps", "stages"), ("split", "group")
MOST = 64  # stages, parts of a split, tiles to a group


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

    @classmethod
    def of_json(cls, entry: Any) -> Self:
        """What `as_json` gave.

        Raises:
            ValueError: it is no tile; the message says why.
        """
        if not isinstance(entry, dict) or not {*NEEDED} <= entry.keys() <= {*NEEDED, *OPTIONAL}:
            raise ValueError(
                f"a tile has {', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}, and this is {entry!r:.80}"
            )
        for name, value in entry.items():
            if type(value) is not int or not _can_be(name, value):
                raise ValueError(f"no tile has {value!r:.80} {name}")
        return cls(**entry)


def _can_be(name: str, value: int) -> bool:
    if name in ("rows", "columns", "depth"):
        return value in SIDES
    return value in WARPS if name == "warps" else 1 <= value <= MOST
