"""Records as JSON lines, read back from a file that a kill may have cut short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def read(file: Path, of: Callable[..., T]) -> Iterator[T]:
    """What is there so far, each line made into a record by its keys; a line that was cut off is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield of(**json.loads(line))
        except (ValueError, TypeError):
            continue
