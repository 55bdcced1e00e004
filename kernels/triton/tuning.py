"""Which tile a kernel takes for a shape: a table predicted for the RTX 4090, or one measured on this machine's card.

Tiles are looked up, never searched for, while training: a trial would update weights and moments.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

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
    return {**_read(PREDICTED), **_measured()[0]}


def override_path() -> Path:
    """Where `galore bench kernels --tune` writes what it measured.

    Raises:
        RuntimeError: there is no home directory to write below; the message says so.
    """
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(root) / "galore" / "kernels.json"


def origin() -> tuple[str, str]:
    """What the tiles go by, and what is to be said of it, for people."""
    measured, refused = _measured()
    if measured:
        return "measured", str(override_path())
    return "predicted for the RTX 4090", f"not timed; {refused}" if refused else "not timed"


def refusal() -> str:
    """Why a table that was measured here is not gone by, "" if it is, or there is none."""
    return _measured()[1]


def write(path: Path, tiles: dict[str, Tile], note: str) -> None:
    """A table that `table` reads, on the disk before it has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: tile.as_json() for name, tile in sorted(tiles.items())}
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    private = path.with_name(f".{path.name}.tmp")
    with private.open("w", encoding="utf-8") as file:
        file.write(f'{{\n  "note": {json.dumps(note)},\n  "tiles": {{\n{lines}\n  }}\n}}\n')
        file.flush()
        os.fsync(file.fileno())
    private.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    table.cache_clear()


def _measured() -> tuple[dict[str, Tile], str]:
    """The table that was measured here, and why it is not gone by, "" if it is, or there is none."""
    try:
        path = override_path()
    except RuntimeError as error:
        return {}, f"a measured table has no place: {error} Set XDG_CONFIG_HOME"
    try:
        return _read(path), ""
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return {}, f"{path} is not gone by ({reason}): delete it, or measure anew with `galore bench kernels --tune`"


def _read(path: Path) -> dict[str, Tile]:
    """The tiles of a table, every one of them checked; none of one that is not there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no table of tiles; the message says why.
    """
    if not path.exists():
        return {}
    if not path.is_file():
        raise ValueError("it is no file")
    held = json.loads(path.read_text(encoding="utf-8"))
    tiles = held.get("tiles") if isinstance(held, dict) else None
    if not isinstance(tiles, dict):
        raise ValueError("it has no tiles")
    return {name: Tile.of_json(entry) for name, entry in tiles.items()}
