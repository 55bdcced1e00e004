"""Tokenized documents on disk: flat token ids and document offsets, read where they are asked for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from galore.trainer.common.durable import NewFile, Written
from galore.trainer.common.errors import RunFailed

OFFSET_TYPE = np.dtype("<i8")
COUNTED_DOCUMENTS = 1 << 20

Ids = npt.NDArray[np.int64]


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every id: two bytes below 65,536 ids, else four."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.tokens", folder / f"{name}.offsets"


class TokenStore:
    """Documents as slices of one array: document i is `tokens[offsets[i]:offsets[i + 1]]`, its EOS included, and
    its BOS where it is packed and the tokenizer puts one before texts."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        tokens, offsets = _paths(folder, name)
        self.tokens = TokenFile(tokens, dtype)  # (tokens,)
        self.offsets = TokenFile(offsets, OFFSET_TYPE)  # (documents + 1,) int64

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def intact(self) -> bool:
        """Whether the two files belong together: a truncated one does not."""
        return len(self.offsets) > 0 and int(self.offsets[-1:][0]) == len(self.tokens)

    def lengths(self) -> Iterator[Ids]:
        """Tokens of every document, a block of documents at a time: offsets may not fit into memory."""
        for start in range(0, self.num_documents, COUNTED_DOCUMENTS):
            yield np.diff(self.offsets[start : start + COUNTED_DOCUMENTS + 1])

    def span(self, number: int) -> tuple[int, int]:
        """Where document `number` begins and ends."""
        start, stop = self.offsets[number : number + 2].tolist()
        return start, stop


class TokenFile:
    """A file as a flat array that is read where it is sliced.

    It is not mapped: the kernel answers the reading of a mapped file that was truncated meanwhile by killing the
    process.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path, self._dtype = path, dtype
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._length = os.fstat(self._descriptor).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> npt.NDArray[Any]:
        """Neighbours, in stored order; raises RunFailed if the file has become shorter, or cannot be read any more."""
        start, stop, _ = where.indices(self._length)
        size = self._dtype.itemsize
        return np.frombuffer(self._read(start * size, max(stop - start, 0) * size), self._dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, start: int, count: int) -> bytes:
        parts: list[bytes] = []
        try:
            while count and (part := os.pread(self._descriptor, count, start)):
                parts.append(part)
                start, count = start + len(part), count - len(part)
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error
        if count:
            raise self._gone("it has become shorter")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _gone(self, reason: str) -> RunFailed:
        fix = "go on with --resume: what is no longer as it was kept is made anew"
        return RunFailed(f"cannot be read any more: {reason}", where=str(self._path), fix=fix)


class StoreWriter:
    """Writes a `TokenStore`, document after document, in constant memory; without `eos_token_id` they end as they do.

    Args:
        beginning: what every document begins with.
    """

    def __init__(
        self, folder: Path, name: str, dtype: np.dtype[Any], eos_token_id: int | None, beginning: tuple[int, ...] = ()
    ) -> None:
        self._paths = _paths(folder, name)
        self._files = ExitStack()
        self._tokens, self._offsets = (self._files.enter_context(NewFile(path)) for path in self._paths)
        self._dtype = dtype
        self._beginning = list(beginning)
        self._eos = [] if eos_token_id is None else [eos_token_id]
        self._start = 0
        self.num_tokens = 0
        self.num_documents = 0
        self._offsets.write(np.zeros(1, OFFSET_TYPE).tobytes())

    def extend(self, ids: Sequence[float]) -> None:
        """Add token ids, or numbers of another type, to the document at hand."""
        if ids and self.num_tokens == self._start:
            ids = [*self._beginning, *ids]
        self._tokens.write(np.array(ids, self._dtype).tobytes())
        self.num_tokens += len(ids)

    def end_document(self, even_empty: bool = False) -> bool:
        """Close the document at hand, with its EOS. False, and nothing written, if it has no token, unless it may."""
        if self.num_tokens == self._start and not even_empty:
            return False
        self.extend(self._eos)
        self.num_documents += 1
        self._start = self.num_tokens
        self._offsets.write(np.array([self.num_tokens], OFFSET_TYPE).tobytes())
        return True

    @property
    def written(self) -> dict[str, Written]:
        """Size and hash of both files, by name."""
        return {path.name: file.written for path, file in zip(self._paths, (self._tokens, self._offsets), strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)
