"""What a run shows in a notebook: one table that follows it, evaluations and messages below; no control codes."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from galore.cli.show.progress.cells import Cell, Eta, evaluation_cells, header_items, memory_cells, progress_cells
from galore.trainer.common.format import duration
from galore.trainer.common.printable import presentable, printable
from galore.trainer.machine.signals import to_stderr

if TYPE_CHECKING:
    from galore.trainer.record.metrics import Console
    from galore.trainer.record.row import EvalRow, TrainRow

EVERY_SECONDS = 0.5  # between two drawings: each is sent to a browser
MOST_LINES = 200  # of evaluations and messages


def notebook_console() -> Console | None:
    """The console for the notebook that this process is the kernel of; None where it is none."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return None
    shell = importlib.import_module("IPython").get_ipython()
    return NotebookConsole() if getattr(shell, "kernel", None) is not None else None


class NotebookConsole:
    """One display that is drawn anew. A frontend that shows no HTML shows the same as plain lines."""

    def __init__(self) -> None:
        self._header: list[tuple[str, str]] = []
        self._progress: list[Cell] = []
        self._lines: list[str] = []
        self._total, self._eta, self._drawn = 0, Eta(0), 0.0
        self._display: Any = None

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self._header = [(label, printable(text)) for label, text in header_items(header, verbose=False)]
        self._total, self._eta = total_steps, Eta(total_steps)
        self._draw()

    def step(self, row: TrainRow) -> None:
        self._eta.update(row["step"])
        step = Cell("step", f"{row['step']:,}/{self._total:,}")
        left = Cell("ETA", duration(self._eta.remaining))
        self._progress = [step, *progress_cells(row), *memory_cells(row, categories=False), left]
        if time.monotonic() - self._drawn >= EVERY_SECONDS or row["step"] == self._total:
            self._draw()

    def evaluation(self, row: EvalRow) -> None:
        told = "  ".join([f"step {row['step']:,}", *map(str, evaluation_cells(row))])
        said = [f"{name}: {printable(str(row[name])).strip()}" for name in ("question", "sample") if row.get(name)]
        self._tell(told, *said)

    def message(self, text: str) -> None:
        self._tell(*presentable(text).splitlines())

    def notice(self, text: str) -> None:
        to_stderr(text)

    def close(self) -> None:
        self._draw()

    def _tell(self, *lines: str) -> None:
        self._lines = [*self._lines, *lines][-MOST_LINES:]
        self._draw()

    def _draw(self) -> None:
        """Show what there is; a frontend that is gone hinders no run."""
        self._drawn = time.monotonic()
        data = {"text/html": self._html(), "text/plain": self._plain()}
        try:
            if self._display is None:
                shown = importlib.import_module("IPython.display").display
                self._display = shown(data, raw=True, display_id=True)
            else:
                self._display.update(data, raw=True)
        except Exception as error:
            to_stderr(f"the notebook shows nothing more: {error}")

    def _plain(self) -> str:
        header = [f"{label + ':':<11} {text}" for label, text in self._header]
        return "\n".join([*header, "  ".join(map(str, self._progress)), *self._lines])

    def _html(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self._lines)
        values = _row("td", (cell.value for cell in self._progress))
        progress = f"<table>{_row('th', (cell.label for cell in self._progress))}{values}</table>"
        header = "".join(_row("td", pair) for pair in self._header)
        return f"<table>{header}</table>{progress if self._progress else ''}{lines}"


def _row(tag: str, texts: Iterable[str]) -> str:
    return "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(text)}</{tag}>' for text in texts) + "</tr>"
