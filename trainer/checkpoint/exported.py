"""Digests in the model folders that galore writes, compared when it reads them again; transformers passes them over.

An exported folder has a file of its own for them; a checkpoint, which is a model folder too, has its manifest, and in
its state the digests of what lies beside the weights. A folder without them is taken like anybody's.
"""

from __future__ import annotations

import json
from pathlib import Path

from galore.trainer.checkpoint import modelfolder
from galore.trainer.checkpoint.checkpoint import STATE
from galore.trainer.checkpoint.identity import files_of
from galore.trainer.checkpoint.manifest import NAME as CHECKPOINT_MANIFEST
from galore.trainer.checkpoint.manifest import Damaged, Manifest, check_files, check_hashes, read_manifest
from galore.trainer.common.durable import Written, sync_directory, write_file
from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.reading import read_bounded

MANIFEST = "galore-manifest.json"
WEIGHTS = ".safetensors"
CHECKPOINT = b'"galore-checkpoint"'


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
    if not folder.is_dir():
        return
    what, fix = "is not as it was saved", "take another checkpoint of the run, or restore this one from a copy"
    try:
        if (folder / MANIFEST).exists():
            what = "is not as it was exported"
            fix = f"export it again; or, if you changed it yourself, delete {MANIFEST}"
            files = read_manifest(folder, MANIFEST).files
            check_files(folder, {name: entry for name, entry in files.items() if name.endswith(WEIGHTS) is weights})
        elif _is_checkpoint(folder):
            _check_checkpoint(folder, weights)
    except Damaged as damage:
        raise UserError(f"{what}: {damage}", where=str(folder), fix=fix) from None
    except OSError as error:
        raise RunFailed(
            f"cannot be read: {error.strerror}",
            where=str(error.filename or folder),
            fix="make it readable, and try again",
        ) from error


def refuse_bare_checkpoint(source: str) -> None:
    """Raise UserError if `source` is a checkpoint that no model can be made of by itself."""
    folder = Path(source)
    if _is_checkpoint(folder) and not (folder / "config.json").exists():
        raise UserError(
            "is a checkpoint without the configuration of a model: of adapters, in parts, of an older galore, or a copy without "
            "what its links lead to",
            where=str(folder),
            fix="name the folder that `galore export RUN OUT` writes",
        )


def _is_checkpoint(folder: Path) -> bool:
    path = folder / CHECKPOINT_MANIFEST
    return path.is_file() and CHECKPOINT in read_bounded(path)


def _check_checkpoint(folder: Path, weights: bool) -> None:
    """Raise Damaged unless the weights, or what links and copies beside them lead to, are those that were saved.

    A copy may lack the state that a run goes on from; then nothing knows what lies beside its weights.
    """
    files, has_state = read_manifest(folder).files, (folder / STATE).exists()
    wanted = [modelfolder.WEIGHTS] if weights else [STATE] * has_state
    check_files(folder, {name: files[name] for name in wanted if name in files})
    state = json.loads(read_bounded(folder / STATE)) if has_state and not weights else {}
    for name, sha256 in files_of(state).items():
        beside = (folder / name.partition("/")[2]).resolve()
        if beside.is_file():
            check_hashes(beside.parent, {beside.name: sha256})
