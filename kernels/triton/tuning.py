"""Which tile a kernel takes for a shape: a table predicted for the RTX 4090, or one measured on this machine's card.

Tiles are looked up, never searched for, while training: a trial would update weights and moments.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from galore.kernels.triton.tile import Tile

PREDICTED = Path(__file__).with_name("rtx4090.json")
RANKS = (16, 32, 64, 128, 256, 512, 1024)  # a rank goes by the next one of these
SIZES = {"small": 1 << 21, "medium": 1 << 24}  # elements of the weight, up to
DEFAULTS = {
    "project": Tile(64, 128, 32, 8, 3),
    "lift": Tile(128, 128, 32, 8, 3),
    "lift int8": Tile(64, 128, 32, 8, 3),
    "lift float32": Tile(64, 128, 32, 8, 3),
    "ragged project": Tile(64, 64, 32, 4, 3),
    "ragged lift": Tile(32, 128, 32, 8, 3),
}
MULTIPLE = 64  # of every dimension of a product whose tiles need no masks, or few


def key(op: str, a: int, b: int, r: int, transposed: bool, storage: str) -> str:
    """`op size side rank storage`: what one entry of the table holds for.

    The size of a ragged product, whose tiles need masks and so more registers, is `ragged`.
    """
    size = next((name for name, most in SIZES.items() if a * b <= most), "large")
    size = "ragged" if _ragged(a, b, r) else size
    rank = next((known for known in RANKS if r <= known), RANKS[-1])
    return f"{op} {size} {'right' if transposed else 'left'} r{rank} {storage}"


def tile_for(op: str, a: int, b: int, r: int, transposed: bool, storage: str) -> Tile:
    """The tile of `op` on an oriented weight (a, b) at rank r.

    Args:
        storage: of the projector for `project` (p4, p8, p16, p32), of the weight for `lift`.
    """
    found = table().get(key(op, a, b, r, transposed, storage))
    if found:
        return found
    return DEFAULTS[f"ragged {op}"] if _ragged(a, b, r) else DEFAULTS.get(f"{op} {storage}", DEFAULTS[op])


def _ragged(a: int, b: int, r: int) -> bool:
    return any(size % MULTIPLE for size in (a, b, r))


@functools.cache
def table() -> dict[str, Tile]:
    """Predicted tiles, replaced by those that were measured here."""
    return {**_read(PREDICTED), **_read(override_path())}


def override_path() -> Path:
    """Where `galore bench kernels --tune` writes what it measured."""
    root = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return root / "galore" / "kernels.json"


def source() -> str:
    """What the tiles go by, for people."""
    if override_path().exists():
        return f"measured, {override_path()}"
    return "predicted for the RTX 4090, not timed" if PREDICTED.exists() else "defaults, not timed"


def write(path: Path, tiles: dict[str, Tile], note: str) -> None:
    """A table that `table` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: tile.as_json() for name, tile in sorted(tiles.items())}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    private = path.with_name(f".{path.name}.tmp")
    private.write_text(f'{{\n  "note": {json.dumps(note)},\n  "tiles": {{\n{lines}\n  }}\n}}\n')
    private.replace(path)
    table.cache_clear()


def _read(path: Path) -> dict[str, Tile]:
    if not path.exists():
        return {}
    held: dict[str, Any] = json.loads(path.read_text())
    return {name: Tile(**entry) for name, entry in held["tiles"].items()}
