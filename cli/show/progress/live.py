"""What a run shows on a terminal: a few lines that stay at the bottom and follow the run."""

from __future__ import annotations

import math
import sys
from typing import Any

from rich.console import Console as Terminal
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from galore.cli.show.progress.cells import (
    Cell,
    Eta,
    evaluation_cells,
    header_items,
    lines,
    memory_cells,
    progress_cells,
)
from galore.cli.show.progress.sparkline import ASCII, BLOCKS, Course
from galore.trainer.common.format import duration
from galore.trainer.common.printable import presentable, printable
from galore.trainer.machine.signals import to_stderr
from galore.trainer.record.row import EvalRow, TrainRow, loss_of

REFRESH_PER_SECOND = 4
WHOLE = ("output",)  # what people copy is never cut
ROWS_BELOW = 10  # of the screen, for what follows the run: bar, course, numbers, memory, a notice, the cursor


class LiveConsole:
    """Header once, progress at the bottom, evaluations and messages scrolling above it."""

    def __init__(self, terminal: Terminal, verbose: bool = False) -> None:
        self._terminal, self._verbose = terminal, verbose
        self._status: Status | None = None
        self._live: Live | None = None

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self.close()
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for label, lines_of in self._header(header):
            table.add_row(label, Text("\n", style="bold yellow" if label == "warning" else "").join(lines_of))
        self._terminal.print(table, Text())
        self._status = Status(total_steps)
        self._live = Live(
            self._status,
            console=self._terminal,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def _header(self, header: dict[str, Any]) -> list[tuple[str, list[Text]]]:
        """Labels with their lines; unless all is asked for, so few that what follows the run stays on the screen."""
        shown = header_items(header, self._verbose)
        width = max(self._terminal.width - max((len(label) for label, _ in shown), default=0) - 2, 1)
        folded = [(label, list(Text(printable(text)).wrap(self._terminal, width))) for label, text in shown]
        for most in () if self._verbose else (3, 2, 1):
            if sum(len(each) for _, each in folded) <= self._terminal.height - ROWS_BELOW:
                break
            folded = [(label, each if label in WHOLE else _cut(each, most, width)) for label, each in folded]
        return folded

    def step(self, row: TrainRow) -> None:
        if self._status is not None:
            self._status.update(row)

    def evaluation(self, row: EvalRow) -> None:
        text = cells_text([Cell("step", f"{row['step']:,}"), *evaluation_cells(row)])
        self._terminal.print(text)
        for words, style in ((row.get("question"), "dim"), (row.get("sample"), "italic")):
            if words:
                self._terminal.print(Padding(Text(printable(words).strip(), style=style), (0, 0, 0, 2)))

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


def _cut(text: list[Text], most: int, width: int) -> list[Text]:
    """The first lines of a text, the last of them with a mark where more would follow."""
    if len(text) <= most:
        return text
    last = Text(f"{text[most - 1].plain.rstrip()[: width - 2]} …")
    return [*text[: most - 1], last]


class Status:
    """The lines at the bottom. Drawn by the refresh thread, at whatever width the terminal has by then."""

    def __init__(self, total_steps: int) -> None:
        self._total, self._row = total_steps, TrainRow()
        self._eta, self._course = Eta(total_steps), Course()
        self.notice = ""

    def update(self, row: TrainRow) -> None:
        self._eta.update(row["step"])
        loss = loss_of(row)
        self._course.add(math.nan if loss is None else loss)
        self._row = row

    def __rich_console__(self, console: Terminal, options: ConsoleOptions) -> RenderResult:
        row = self._row
        yield Text()
        yield self._bar(row.get("step", 0))
        if course := self._sparkline(options):
            yield course
        for group in (progress_cells(row), memory_cells(row, categories=True)):
            for line in lines(group, options.max_width):
                yield cells_text(line)
        if self.notice:
            yield Text(self.notice, style="bold yellow")

    def _sparkline(self, options: ConsoleOptions) -> Text | None:
        """The loss since this process began; nothing where a screen is too narrow for it."""
        marks, arrow = (ASCII, "->") if options.ascii_only else (BLOCKS, "→")
        ends = f"{self._course.first:.4f} {arrow} {self._course.last:.4f}"
        drawn = self._course.line(options.max_width - len("loss  ") - len(ends), marks)
        return Text.assemble(("loss ", "dim"), (drawn, "green"), " ", ends) if drawn else None

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
