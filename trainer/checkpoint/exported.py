"""Digests in the model folders that galore exports, compared when it reads them again; transformers passes them over.

A folder without them is taken like anybody's.
"""

from __future__ import annotations

from pathlib import Path

from galore.trainer.checkpoint.manifest import Damaged, Manifest, check_files, read_manifest
from galore.trainer.common.durable import Written, sync_directory, write_file
from galore.trainer.common.errors import RunFailed, UserError

MANIFEST = "galore-manifest.json"
WEIGHTS = ".safetensors"


def sign(folder: Path, files: dict[str, Written]) -> None:
    """Write down size and hash of the synced files of a model."""
    write_file(folder / MANIFEST, [Manifest.of(None, files).to_json()])
    sync_directory(folder)


def require_as_exported(source: str, *, weights: bool) -> None:
    """Compare the weights of the folder `source`, or all else it holds of a model, with its digests, if it has any.

    Raises:
        UserError: a file is another one. RunFailed: it cannot be read just now.
    """
    folder = Path(source)
    if not folder.is_dir() or not (folder / MANIFEST).exists():
        return
    try:
        files = read_manifest(folder, MANIFEST).files
        check_files(folder, {name: entry for name, entry in files.items() if name.endswith(WEIGHTS) is weights})
    except Damaged as damage:
        raise UserError(
            f"is not as it was exported: {damage}",
            where=str(folder),
            fix=f"export it again; or, if you changed it yourself, delete {MANIFEST}",
        ) from None
    except OSError as error:
        raise RunFailed(
            f"cannot be read: {error.strerror}",
            where=str(error.filename or folder),
            fix="make it readable, and try again",
        ) from error
