"""What a run shows on a terminal: a few lines that stay at the bottom and follow the run."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console as Terminal
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from galore.cli.show.cells import Cell, Eta, evaluation_cells, lines, memory_cells, progress_cells
from galore.trainer.common.format import duration
from galore.trainer.common.printable import presentable, printable
from galore.trainer.machine.signals import to_stderr

REFRESH_PER_SECOND = 4


class LiveConsole:
    """Header once, progress at the bottom, evaluations and messages scrolling above it."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._status: Status | None = None
        self._live: Live | None = None

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self.close()
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in header.items():
            table.add_row(label, Text(printable(str(value)), style="bold yellow" if label == "warning" else ""))
        self._terminal.print(table, Text())
        self._status = Status(total_steps)
        self._live = Live(
            self._status,
            console=self._terminal,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def step(self, row: dict[str, Any]) -> None:
        if self._status is not None:
            self._status.update(row)

    def evaluation(self, row: dict[str, Any]) -> None:
        text = cells_text([Cell("step", f"{row['step']:,}"), *evaluation_cells(row)])
        self._terminal.print(text)
        if row.get("sample"):
            self._terminal.print(Padding(Text(printable(row["sample"]).strip(), style="italic"), (0, 0, 0, 2)))

    def message(self, text: str) -> None:
        self._terminal.print(Text(presentable(text)))

    def notice(self, text: str) -> None:
        if self._status is not None and self._live is not None:
            self._status.notice = text  # the refresh thread shows it
        else:
            to_stderr(text)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class Status:
    """The lines at the bottom. Drawn by the refresh thread, at whatever width the terminal has by then."""

    def __init__(self, total_steps: int) -> None:
        self._total, self._row = total_steps, dict[str, Any]()
        self._eta = Eta(total_steps)
        self.notice = ""

    def update(self, row: dict[str, Any]) -> None:
        self._eta.update(row["step"])
        self._row = row

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        row = self._row
        yield Text()
        yield self._bar(row.get("step", 0))
        for group in (progress_cells(row), memory_cells(row, categories=True)):
            for line in lines(group, options.max_width):
                yield cells_text(line)
        if self.notice:
            yield Text(self.notice, style="bold yellow")

    def _bar(self, step: int) -> Table:
        bar = Table.grid(expand=True, padding=(0, 1, 0, 0))
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        eta = duration(self._eta.remaining) if step else "…"
        times = f"{100 * step / max(self._total, 1):.0f} %  {duration(self._eta.elapsed)}  ETA {eta}"
        bar.add_row(f"step {step:,}/{self._total:,}", ProgressBar(max(self._total, 1), step), times)
        return bar


def cells_text(cells: list[Cell]) -> Text:
    """Labels dim, values plain, two spaces between."""
    text = Text()
    for index, (label, value) in enumerate(cells):
        text.append("  " if index else "")
        text.append(f"{label} " if label else "", style="dim")
        text.append(value)
    return text
