"""A checkpoint as a model folder: beside its weights links to configuration and tokenizer, and an index of the weights.

Transformers, and what reads models as it does, then load the checkpoint as it lies. The links are not in the manifest:
what they lead to is compared with its own hashes (`identity`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from galore.trainer.checkpoint.tensorfile import Stored, tensor_bytes
from galore.trainer.common.durable import sync_directory, write_file
from galore.trainer.common.reading import read_bounded

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def index(weights: Mapping[str, Stored]) -> bytes:
    """The content of `INDEX`. Without one a reader that takes every safetensors file takes the optimizer's, too."""
    total = {"total_size": tensor_bytes(weights)}
    return json.dumps({"metadata": total, "weight_map": dict.fromkeys(weights, WEIGHTS)}, indent=1).encode()


def link(checkpoint: Path, folders: Iterable[Path]) -> None:
    """Relative links to all that lies in `folders`, beside the directory of checkpoints; copies where links cannot be.

    Raises:
        OSError: neither can be made.
    """
    # a relative link is followed from where the checkpoint really lies: its folder may be a link to another disk
    here, real = checkpoint.resolve(), (folder.parent.resolve() / folder.name for folder in folders)
    for source in (path for folder in real for path in sorted(folder.iterdir()) if not path.name.startswith(".")):
        name = checkpoint / source.name
        if os.path.lexists(name):
            continue
        try:
            name.symlink_to(os.path.relpath(source, here))
        except OSError:  # a file system, or a user, without links
            _copy(source, name)


def _copy(source: Path, name: Path) -> None:
    if not source.is_dir():
        write_file(name, [read_bounded(source)])
        return
    name.mkdir()
    for inner in source.iterdir():
        _copy(inner, name / inner.name)
    sync_directory(name)
