"""Examples of instruction data on disk: a token store with one byte beside every token, 1 where it is a target."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from galore.trainer.data.chat import Example
from galore.trainer.data.store import StoreWriter, TokenStore, mapped

TARGET_TYPE = np.dtype("u1")


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.targets"


class ExampleStore(TokenStore):
    """Example i is `tokens[offsets[i]:offsets[i + 1]]`, as the template ends it, with `targets` of the same slice."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        super().__init__(folder, name, dtype)
        self.targets: npt.NDArray[np.uint8] = mapped(_path(folder, name), TARGET_TYPE)  # (tokens,)

    @property
    def intact(self) -> bool:
        return super().intact and len(self.targets) == len(self.tokens)


class ExampleWriter:
    """Writes an `ExampleStore`, example after example, in constant memory."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._store = StoreWriter(folder, name, dtype, eos_token_id=None)
        self._targets = _path(folder, name).open("wb")
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

    def __enter__(self) -> Self:
        self._store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._targets.flush()
            os.fsync(self._targets.fileno())
        self._targets.close()
        self._store.__exit__(kind, error, trace)
