"""An output that cannot stop a run: a closed pipe, a full disk or a vanished terminal only makes it silent."""

from __future__ import annotations

import io
from typing import TextIO

from galore.trainer.common.legible import LEGIBLE


class Unbreakable(io.TextIOBase):
    """Passes text on until that fails for the first time. Letters that the encoding lacks become ASCII."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._alive = stream, True

    def write(self, text: str) -> int:
        if self._alive:
            try:
                self._stream.write(text.encode(self.encoding, LEGIBLE).decode(self.encoding, "replace"))
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._alive = False
        return len(text)

    def flush(self) -> None:
        if self._alive:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._alive = False

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"
