"""Files that survive a power cut: every byte is on the disk before its name is. Nothing else writes whole files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import open_regular

CHUNK_BYTES = 16 * 2**20
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust, beneath tokenizers and safetensors, tells an errno


@dataclass(frozen=True)
class Written:
    """What reached the disk: length in bytes and SHA-256 (hex) of the content."""

    bytes: int
    sha256: str


class NewFile:
    """A file that did not exist, hashed while it is written; leaving the `with` block without an error syncs it."""

    def __init__(self, path: Path) -> None:
        self._file, self._digest, self._length = path.open("xb"), hashlib.sha256(), 0

    def write(self, part: bytes | memoryview) -> None:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            with self._named():
                self._file.write(chunk)
            self._digest.update(chunk)
        self._length += len(view)

    @property
    def written(self) -> Written:
        return Written(self._length, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._named(), self._file as file:
            if kind is None:
                file.flush()
                os.fsync(file.fileno())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What the system refuses of a file that is open it refuses without its name."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._file.name)
            raise


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Write `parts` one after another to the new file `path`, hash them on the way, and fsync.

    The parts are consumed lazily, so only one of them needs to be in memory.

    Raises:
        OSError: the disk is full, or the file exists or cannot be written.
    """
    with NewFile(path) as file:
        for part in parts:
            file.write(part)
    return file.written


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename is only safe once its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_unwritable(file: Path, where: str) -> None:
    """Refuse `file` before long work for it: one made beside it is the only sure answer, and it leaves none behind.

    Raises:
        UserError: it could not be written.
    """
    folder, fix = file.absolute().parent, "make it, or write elsewhere"
    if not folder.is_dir():
        raise UserError(f"there is no folder {file.parent}", where=where, fix=fix)
    if file.is_dir():
        raise UserError(f"{file} is a folder", where=where, fix="name a file in it")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=file.name):
            pass
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}", where=where, fix="write elsewhere") from error


def refuse_below_file(path: Path, fix: str) -> None:
    """Raise UserError where `path` cannot be made, since what is above it is no folder."""
    there = next((each for each in path.absolute().parents if each.exists()), path)
    if not there.is_dir():
        raise UserError("is a file", where=str(there), fix=fix)


def refuse_undecodable(path: Path, fix: str) -> None:
    """Raise UserError for a folder that libraries cannot name, since its path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        what = "its name, or that of a folder it is in, is not UTF-8, and no tokenizer can be written or read there"
        raise UserError(what, where=str(path), fix=fix) from None


def make_directory(path: Path) -> tuple[Path, ...]:
    """Make `path` and what is missing above it; returns what was made, the innermost first.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    made = []
    for each in (path, *path.parents):
        if each.exists():
            break
        made.append(each)
    for each in reversed(made):
        each.mkdir(exist_ok=True)
        sync_directory(each.parent)
    path.mkdir(exist_ok=True)  # refuses a file
    return tuple(made)


def temporary(path: Path) -> Path:
    """What `path` is called until it is complete. A kill leaves it; whoever writes `path` next removes it."""
    return path.with_name(f".{path.name}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What a kill may leave beside `path`: what was to take its name, and the folder that made way."""
    return [temporary(path), _made_way(path), *_left(path)]


def _made_way(path: Path) -> Path:
    return temporary(path.with_name(f"old-{path.name}"))


def _private(path: Path) -> Path:
    """What the new content of a file is called until it is complete; several processes may write one at once."""
    return temporary(path.with_name(f"{path.name}.{os.getpid()}"))


def _left(path: Path) -> list[Path]:
    """New content of the file `path` by processes that are gone."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.tmp")
    there = os.listdir(path.parent) if path.parent.is_dir() else []  # noqa: PTH208 - names are all that is asked
    return [path.with_name(each) for each in there if (found := name.fullmatch(each)) and not _is_other(int(found[1]))]


def _is_other(process: int) -> bool:
    """Whether that is another process, and there is one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes | str | Iterator[bytes]) -> None:
    """Give `path` new content atomically: readers, and a crash at any moment, see the old or the new one.

    Of parts only one needs to be in memory; they may be read from what is replaced.

    What UTF-8 lacks, such as a byte of a name that is no text, becomes its JSON escape.
    A link stays one, and a file keeps its permissions; a device or pipe is written to. Of several processes at once the
    last one's is there in the end.

    Raises:
        OSError: nothing was changed.
    """
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    parts = iter([content]) if isinstance(content, bytes) else content
    if path.exists() and not path.is_file():
        _write_through(path, b"".join(parts))
        return
    path = path.resolve()
    private = _private(path)
    try:
        for leftover in (temporary(path), *_left(path)):
            leftover.unlink(missing_ok=True)
        write_file(private, parts)
        with suppress(FileNotFoundError):
            private.chmod(path.stat().st_mode)
        private.replace(path)
    except BaseException:
        private.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write_through(path: Path, data: bytes) -> None:
    """Write to a device, or a pipe that somebody reads; one without a reader is refused at once, and not waited for."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as file:
        os.set_blocking(file.fileno(), True)
        file.write(data)


def replace_folder(path: Path, complete: Path) -> None:
    """Give the folder `complete`, whose files are synced, the name `path`, beside it.

    A kill leaves the old one, or none where it was to be replaced, or the new one: never files of both.
    """
    sync_directory(complete)
    old = _made_way(path)
    remove(old)
    if path.is_dir() and any(path.iterdir()):
        path.rename(old)
    complete.rename(path)
    sync_directory(path.parent)
    remove(old)


class Saved(Protocol):
    """A model, configuration or tokenizer of transformers."""

    def save_pretrained(self, folder: Path) -> Any: ...


def save_pretrained(folder: Path, *parts: Saved, max_shard_size: str | None = None) -> dict[str, Written]:
    """Let `parts` write themselves into the folder, which is there; sync what is in it. Returns size and hash by name.

    Args:
        max_shard_size: of a file of weights of the first part, a model; None leaves that to transformers.

    Raises:
        OSError: the disk is full, or the folder cannot be written, whatever type the libraries give to that.
    """
    for part in parts:
        save: Any = part.save_pretrained
        sized = max_shard_size is not None and part is parts[0]
        try:
            save(folder, **({"max_shard_size": max_shard_size} if sized else {}))
        except OSError:
            raise
        except Exception as error:
            if told := _OS_ERROR.search(str(error)):
                number = int(told[1])
                raise OSError(number, os.strerror(number), str(folder)) from error
            raise
    return synced(folder)


def synced(folder: Path, known: Mapping[str, Written] | None = None) -> dict[str, Written]:
    """Sync every file below `folder` that is not `known` to be, and its directories; size and hash by path."""
    found = dict(known or {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            sync_directory(path)
        elif name not in found:
            found[name] = _synced(path)
    sync_directory(folder)
    return dict(sorted(found.items()))


def _synced(path: Path) -> Written:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        os.fsync(file.fileno())
        return Written(file.tell(), digest.hexdigest())
