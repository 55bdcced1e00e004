"""What a run shows where there is no terminal: one line per event, every `log.logging_steps` steps."""

from __future__ import annotations

from typing import Any, TextIO

from galore.cli.show.progress.cells import Cell, Eta, evaluation_cells, header_items, memory_cells, progress_cells
from galore.trainer.common.format import duration
from galore.trainer.common.printable import presentable, printable
from galore.trainer.machine.signals import to_stderr
from galore.trainer.record.row import EvalRow, TrainRow


class PlainConsole:
    """Lines for log files: never wrapped, no colours, flushed at once."""

    def __init__(self, stream: TextIO, logging_steps: int, verbose: bool = False) -> None:
        self._stream, self._logging_steps, self._verbose = stream, logging_steps, verbose
        self._total, self._eta = 0, Eta(0)
        self._begun = False

    def start(self, header: dict[str, Any], total_steps: int) -> None:
        self._total, self._eta, self._begun = total_steps, Eta(total_steps), False
        for label, text in header_items(header, self._verbose):
            self._print(f"{label + ':':<11} {text}")

    def step(self, row: TrainRow) -> None:
        step = row["step"]
        self._eta.update(step)
        if self._begun and step % self._logging_steps and step != self._total and not row.get("skipped"):
            return
        self._begun = True
        cells = [*progress_cells(row), *memory_cells(row, categories=False), Cell("ETA", duration(self._eta.remaining))]
        self._line(step, cells)

    def evaluation(self, row: EvalRow) -> None:
        self._line(row["step"], evaluation_cells(row))
        for name, text in (("question", row.get("question")), ("sample", row.get("sample"))):
            if text:
                self._print(f"  {name}: {printable(text).strip()!r}")

    def message(self, text: str) -> None:
        self._print(presentable(text))

    def notice(self, text: str) -> None:
        to_stderr(text)

    def close(self) -> None:
        self._stream.flush()

    def _line(self, step: int, cells: list[Cell]) -> None:
        self._print("  ".join([f"step {step:,}/{self._total:,}", *map(str, cells)]))

    def _print(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()
