"""Examples of instruction data on disk: a token store with one byte beside every token, 1 where it is a target."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from galore.trainer.common.durable import NewFile, Written
from galore.trainer.data.tokens.chat import Example
from galore.trainer.data.tokens.store import StoreWriter, TokenFile, TokenStore

TARGET_TYPE = np.dtype("u1")


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.targets"


class ExampleStore(TokenStore):
    """Example i is `tokens[offsets[i]:offsets[i + 1]]`, as the template ends it, with `targets` of the same slice."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        super().__init__(folder, name, dtype)
        self.targets = TokenFile(_path(folder, name), TARGET_TYPE)  # (tokens,)

    @property
    def intact(self) -> bool:
        return super().intact and len(self.targets) == len(self.tokens)


class ExampleWriter:
    """Writes an `ExampleStore`, example after example, in constant memory."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._store = StoreWriter(folder, name, dtype, eos_token_id=None)
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

    @property
    def written(self) -> dict[str, Written]:
        """Size and hash of the three files, by name."""
        return {**self._store.written, self._path.name: self._targets.written}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._targets.__exit__(kind, error, trace)
        finally:
            self._store.__exit__(kind, error, trace)
