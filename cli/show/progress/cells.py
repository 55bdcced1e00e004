"""A row of metrics as short labelled texts, and lines made of them that break between, never inside, them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from galore.trainer.common.format import counted, size
from galore.trainer.record.row import EVAL, TRAIN, Column, EvalRow, TrainRow

DETAILS = ("projected", "kernels", "peak")  # of a run's header; run.json and the report hold them


class Cell(NamedTuple):
    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label} {self.value}".strip()


def header_items(header: dict[str, Any], verbose: bool) -> list[tuple[str, str]]:
    """Labels and texts of what is known of a run at its start; the machine's details only where they are asked for."""
    return [(label, str(value)) for label, value in header.items() if verbose or label not in DETAILS]


def progress_cells(row: TrainRow) -> list[Cell]:
    """What a terminal shows of a step: the live columns that are known."""
    cells = [cell(column, row) for column in TRAIN.values() if column.live and row.get(column.name) is not None]
    return [*cells, Cell("", "skipped: gradient not finite")] if row.get("skipped") else cells


def memory_cells(row: TrainRow, categories: bool) -> list[Cell]:
    """Memory now and at most so far, and on demand what the peak consists of."""
    if row.get("memory_current_bytes") is None or row.get("memory_peak_bytes") is None:
        return []
    parts = row.get("memory_by_category_bytes") or {} if categories else {}
    shown = [Cell(name.replace("_", " "), size(value)) for name, value in parts.items() if value]
    now, peak = (cell(TRAIN[name], row) for name in ("memory_current_bytes", "memory_peak_bytes"))
    return [now, peak._replace(value=peak.value + (":" if shown else "")), *shown]


def evaluation_cells(row: EvalRow) -> list[Cell]:
    """The score on held-out text, or the metrics of a task."""
    if "scores" in row:
        return score_cells(row)
    known = ("bits_per_byte",) if row.get("bits_per_byte") is not None else ()
    cells = [cell(EVAL[name], row) for name in ("loss_nats", "perplexity", *known)]
    for name in ("loss_nats_by_source", "loss_nats_by_modality", "extra_loss"):
        cells += [cell(EVAL[name], row)] if name in row else []
    return [*cells, Cell("", counted(row["tokens"], "token"))] if row.get("tokens") else cells


def cell(column: Column, row: Mapping[str, Any]) -> Cell:
    return Cell(column.label, column.told(row))


def score_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Every metric, of every split where there are several; the alarm last, if there is one."""
    found: list[Cell] = []
    for split, scores in row["scores"].items():
        found += [Cell(f"{split}:", "")] if len(row["scores"]) > 1 else []
        found += [Cell(metric, f"{value:.4f}") for metric, value in scores.items()]
    return [*found, *([cell(EVAL["collapsed"], row)] if row.get("collapsed") else [])]


def lines(cells: Iterable[Cell], width: int, gap: int = 2) -> list[list[Cell]]:
    """Cells in as many lines of `width` columns as they take; a cell that is wider has a line of its own."""
    result: list[list[Cell]] = []
    used = 0
    for cell in cells:
        needed = len(str(cell))
        if result and used + gap + needed <= width:
            result[-1].append(cell)
            used += gap + needed
        else:
            result.append([cell])
            used = needed
    return result


class Eta:
    """Time left, from the mean pace since this process began, evaluations and saves included."""

    def __init__(self, total_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock, self._began = total_steps, clock, clock()
        self._first: int | None = None
        self._end = self._began

    def update(self, step: int) -> None:
        """`step` steps are done, counted from the start of the run, which may have been resumed."""
        if self._first is None:
            self._first = step - 1
        self._end = self._clock() + self.elapsed / (step - self._first) * (self._total - step)

    @property
    def elapsed(self) -> float:
        """Seconds since this process began."""
        return self._clock() - self._began

    @property
    def remaining(self) -> float:
        """Seconds, counted down between two steps."""
        return max(0.0, self._end - self._clock())
