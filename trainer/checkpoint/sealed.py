"""Folders beside the checkpoints that are read back: each has a manifest, and is verified before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from galore.trainer.checkpoint.manifest import NAME, Manifest, check_files, read_manifest
from galore.trainer.common.durable import Written, replace_file, sync_directory, synced, write_file
from galore.trainer.common.reading import read_bounded

STAMP = ".verified"
ALWAYS_HASHED = 64 * 2**20  # bytes; a tenth of a second

States = dict[str, list[int]]  # of the larger files


def seal(folder: Path, known: Mapping[str, Written]) -> None:
    """Sync all that is in the folder and write down size and hash of it; those of `known` files are not read again."""
    manifest = Manifest.of(None, synced(folder, known))
    write_file(folder / NAME, [manifest.to_json()])
    _stamp(folder, manifest, _states(folder, manifest))
    sync_directory(folder)


def require_intact(folder: Path) -> None:
    """Compare every file of a sealed folder with its manifest, byte for byte.

    A file of more than `ALWAYS_HASHED` bytes is read once, and again when its size, times or inode are no longer the
    same: a corpus of a hundred gigabytes must not cost minutes at every start.

    Raises:
        Damaged: what is wrong. OSError: it cannot be read just now.
    """
    manifest = read_manifest(folder)
    now, known = _states(folder, manifest), _stamped(folder, manifest)
    unknown = {file: entry for file, entry in manifest.files.items() if file not in now or now[file] != known.get(file)}
    check_files(folder, unknown)
    if now != known:
        _stamp(folder, manifest, now)


def _states(folder: Path, manifest: Manifest) -> States:
    """Size, times and inode of the larger files that are there."""
    found: States = {}
    for file, entry in manifest.files.items():
        if entry.bytes > ALWAYS_HASHED:
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = (folder / file).lstat()
                found[file] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return found


def _stamped(folder: Path, manifest: Manifest) -> States:
    """The states in which the files were found to be what the manifest says; an unreadable stamp spares nothing."""
    try:
        found = json.loads(read_bounded(folder / STAMP))
        return dict(found["files"]) if found["manifest"] == manifest.self_sha256 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _stamp(folder: Path, manifest: Manifest, states: States) -> None:
    """Write the stamp. Without one, as in a folder that cannot be written, every file is read at every start."""
    if states:
        with suppress(OSError):
            replace_file(folder / STAMP, json.dumps({"manifest": manifest.self_sha256, "files": states}))
