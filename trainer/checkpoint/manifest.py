"""What a complete directory holds: name, size and SHA-256 of every file, and whether it still does."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints, ValidationError, model_validator

from galore.trainer.common.durable import CHUNK_BYTES, Written
from galore.trainer.common.reading import NotReadable, open_regular, read_bounded

NAME = "manifest.json"
FORMAT_VERSION = 1
Kind = Literal["galore-checkpoint", "galore-folder"]

# Plain names inside the directory, none with a leading dot, hence never a path that leads elsewhere.
_PLAIN = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PLAIN}(/{_PLAIN})*$", max_length=200)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Damaged(Exception):  # noqa: N818 - a verdict on what lies on the disk, not an error of the program
    """Why a directory cannot be trusted."""


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: NonNegativeInt
    sha256: Sha256


class Manifest(BaseModel):
    """Content of `manifest.json`. `self_sha256` covers the other fields, so that a flipped bit here shows too.

    A checkpoint is of a `step`; any other directory that is read back has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Kind
    version: int = FORMAT_VERSION
    step: NonNegativeInt | None
    files: dict[FileName, FileEntry]
    self_sha256: str = Field(description="SHA-256 of the canonical JSON of the fields above")

    @classmethod
    def of(cls, step: int | None, files: Mapping[str, Written]) -> Self:
        kind: Kind = "galore-folder" if step is None else "galore-checkpoint"
        entries = {name: FileEntry(bytes=w.bytes, sha256=w.sha256) for name, w in sorted(files.items())}
        draft = cls(format=kind, step=step, files=entries, self_sha256="")
        return draft.model_copy(update={"self_sha256": draft.digest()})

    def digest(self) -> str:
        content = self.model_dump(exclude={"self_sha256"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"

    @model_validator(mode="before")
    @classmethod
    def _known_version(cls, data: object) -> object:
        version = data.get("version") if isinstance(data, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise Damaged(f"{NAME} has format version {version}; this galore reads version {FORMAT_VERSION}")
        return data


def verify(directory: Path) -> Manifest:
    """Read the manifest and compare every file with it, byte for byte.

    Raises:
        Damaged: the first thing found wrong: no manifest, not JSON, unknown version, a file that is missing,
            of another size, or of another hash (which one).
        OSError: a file is there and cannot be read just now, which says nothing about what is in it.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest.files)
    return manifest


def check_files(directory: Path, files: Mapping[str, FileEntry]) -> None:
    """Compare `files`, all sizes before the first content. Raises as `verify` does."""
    for name, entry in files.items():
        _check_size(directory / name, entry)
    check_hashes(directory, {name: entry.sha256 for name, entry in files.items()})


def check_hashes(directory: Path, files: Mapping[str, str]) -> None:
    """Compare the content of files with their SHA-256. Raises as `verify` does."""
    for name, sha256 in files.items():
        _require_file(directory / name)
        _check_hash(directory / name, sha256)


def read_manifest(directory: Path, name: str = NAME) -> Manifest:
    """The manifest, which agrees with itself. Raises as `verify` does."""
    try:
        manifest = Manifest.model_validate_json(read_bounded(directory / name))
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"no {name}") from None
    except NotReadable as error:
        raise Damaged(f"{name} {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Damaged(f"{name} is not readable: {key + ': ' if key else ''}{first['msg']}") from None
    if manifest.self_sha256 != manifest.digest():
        raise Damaged(f"{name} does not match its own hash")
    return manifest


def _require_file(path: Path) -> os.stat_result:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"{path.name} is missing") from None
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path.name} is not a regular file")
    return found


def _check_size(path: Path, entry: FileEntry) -> None:
    size = _require_file(path).st_size
    if size != entry.bytes:
        raise Damaged(f"{path.name} has {size:,} bytes, not {entry.bytes:,}")


def _check_hash(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with open_regular(path, follow=False) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except (FileNotFoundError, NotADirectoryError):  # deleted since it was looked for
        raise Damaged(f"{path.name} is missing") from None
    if digest.hexdigest() != sha256:
        raise Damaged(f"{path.name} does not match its SHA-256: its content has changed since it was saved")
