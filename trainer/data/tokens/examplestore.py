"""Examples on disk: a token store with one byte beside every token, 1 where it is a target, and numbers beside rows."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from galore.trainer.common.durable import NewFile, Written
from galore.trainer.data.tokens.chat import Example
from galore.trainer.data.tokens.store import StoreWriter, TokenFile, TokenStore

TARGET_TYPE = np.dtype("u1")
EXTRA_TYPE = np.dtype("<f4")


def _extra(name: str) -> str:
    return f"{name}.extra"


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.targets"


class ExampleStore(TokenStore):
    """Example i is `tokens[offsets[i]:offsets[i + 1]]`, as the template ends it, with `targets` of the same slice.

    With `extra`, each has numbers of its own for a second loss, as many as it likes.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], extra: bool = False) -> None:
        super().__init__(folder, name, dtype)
        self.targets = TokenFile(_path(folder, name), TARGET_TYPE)  # (tokens,)
        self.extra = TokenStore(folder, _extra(name), EXTRA_TYPE) if extra else None

    @property
    def intact(self) -> bool:
        whole = self.extra is None or (self.extra.intact and self.extra.num_documents == self.num_documents)
        return super().intact and len(self.targets) == len(self.tokens) and whole

    def extra_of(self, number: int) -> npt.NDArray[np.float32]:
        """The numbers of an example; none where it has none."""
        if self.extra is None:
            return np.empty(0, np.float32)
        start, stop = self.extra.span(number)
        return self.extra.tokens[start:stop].astype(np.float32)


class ExampleWriter:
    """Writes an `ExampleStore`, example after example, in constant memory."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], extra: bool = False) -> None:
        self._store = StoreWriter(folder, name, dtype, eos_token_id=None)
        self._extra = StoreWriter(folder, _extra(name), EXTRA_TYPE, eos_token_id=None) if extra else None
        self._path = _path(folder, name)
        self._targets = NewFile(self._path)
        self.num_targets = 0

    @property
    def num_documents(self) -> int:
        return self._store.num_documents

    @property
    def num_tokens(self) -> int:
        return self._store.num_tokens

    def add(self, example: Example) -> None:
        self._store.extend(example.ids)
        self._store.end_document()
        self._targets.write(example.targets.astype(TARGET_TYPE).tobytes())
        self.num_targets += int(example.targets.sum())
        if self._extra is not None:
            self._extra.extend(example.extra or [])
            self._extra.end_document(even_empty=True)

    @property
    def written(self) -> dict[str, Written]:
        """Size and hash of the files, by name."""
        extra = {} if self._extra is None else self._extra.written
        return {**self._store.written, self._path.name: self._targets.written, **extra}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._targets.__exit__(kind, error, trace)
            if self._extra is not None:
                self._extra.__exit__(kind, error, trace)
        finally:
            self._store.__exit__(kind, error, trace)
