"""A progress bar while data are prepared: fingerprinting, tokenizer training, tokenizing. Shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from galore.trainer.common.format import size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from galore.trainer.data.batch import Progress


@contextmanager
def preparing() -> Iterator[Progress]:
    """A callable for `prepare_data`; each kind of work gets a bar, which leaves the screen when it is full."""
    if not sys.stderr.isatty():
        yield lambda done_bytes, total_bytes, what: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[read]}"), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    try:
        yield _Preparation(bars)
    finally:
        bars.stop()


class _Preparation:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, done_bytes: int, total_bytes: int, what: str) -> None:
        if what not in self._tasks:
            self._bars.start()
            self._tasks[what] = self._bars.add_task(what, total=total_bytes or None, read="")
        of = f" of {size(total_bytes)}" if total_bytes else ""
        self._bars.update(
            self._tasks[what], completed=done_bytes, total=total_bytes or None, read=f"{size(done_bytes)}{of}"
        )
        if total_bytes and done_bytes >= total_bytes:
            self._bars.remove_task(self._tasks.pop(what))
            if not self._tasks:
                self._bars.stop()
