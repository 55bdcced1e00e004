"""Tiles that are considered for a kernel, and the shapes that stand for the classes of the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from galore.kernels.predict import catalogue
from galore.kernels.triton.launch import Launch
from galore.kernels.triton.tile import Tile
from galore.kernels.triton.tuning import key

SHAPES = {"small": (768, 2048), "medium": (2048, 2048), "large": (4096, 11008), "ragged": catalogue.RAGGED[:2]}
RANKS = (64, 128, 256, 512, 1024)
STORAGES = {
    "project": ("p16", "p32", "p8", "p4"),
    "lift": catalogue.WEIGHTS,
}
_SPLITS = (1, 2, 4, 8)


class Entry(NamedTuple):
    """One line of the table to be: an operation on a shape of its class."""

    op: str
    a: int
    b: int
    r: int
    transposed: bool
    storage: str

    @property
    def key(self) -> str:
        return key(*self)

    def plan(self, tile: Tile) -> list[Launch]:
        """The launches of the entry with a tile, on tensors without memory."""
        shape = (self.a, self.b, self.r)
        if self.op == "lift":
            return catalogue.lift(*shape, self.storage, transposed=self.transposed, tile=tile)
        width = int(self.storage[1:])
        options = {"bits": width} if width < 16 else {"dtype": catalogue.STATES["float32"]} if width == 32 else {}
        return catalogue.project(*shape, transposed=self.transposed, tile=tile, **options)


def entries() -> Iterator[Entry]:
    """Every line of the table."""
    for op, storages in STORAGES.items():
        for size, (a, b) in SHAPES.items():
            for r in RANKS:
                rank = r - 1 if size == "ragged" else r  # an odd one, so that nothing divides
                for transposed in (False, True):
                    yield from (Entry(op, a, b, min(rank, a), transposed, storage) for storage in storages)


def tiles(entry: Entry) -> list[Tile]:
    """Tiles worth a look: none much taller than the rank, none that leaves the card mostly idle if another does not."""
    if entry.op == "lift":
        columns = (128,) if entry.storage == "int8" else (64, 128)
        shapes = [(rows, width) for rows in (32, 64, 128) for width in columns]
        return [Tile(rows, width, 32, 8 if rows * width >= 4096 else 4, 3) for rows, width in shapes]
    shapes = [(32, 128), (64, 64), (64, 128), (128, 128)]
    return [
        Tile(rows, columns, 32, 8 if rows * columns > 4096 else 4, 3, split)
        for rows, columns in shapes
        if rows <= max(32, entry.r)
        for split in _SPLITS
        if entry.a // split >= 256
    ]
