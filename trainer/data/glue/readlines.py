"""Rows of GLUE's own TSV, and of JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from galore.trainer.data.formats.bytestream import bounded_lines, opened
from galore.trainer.data.glue.columns import Columns, find_columns
from galore.trainer.data.glue.examples import Raw
from galore.trainer.data.glue.rows import Fault
from galore.trainer.tasks.glue import Task

LONGEST_LINE = 1 << 20  # bytes; a row of MNLI with all its parse trees has a few thousand
COLA_COLUMNS = ("source", "label", "author's mark", "sentence")  # of its train and dev files, which have no header


class Ragged(NamedTuple):
    """A line with another number of columns than the header."""

    line: int
    columns: int
    expected: int


class Cells(NamedTuple):
    line: int
    by_name: dict[str, str]


def read_jsonl(path: Path, task: Task, labelled: bool) -> Iterator[Raw]:
    """One JSON object a line. Raises Fault."""
    columns_of = lru_cache(maxsize=64)(partial(find_columns, task, labelled=labelled))
    for number, line in _lines(path):
        try:
            row = _object(line)
            yield _raw(number, row, columns_of(tuple(row)))
        except Fault as fault:
            fault.line = number
            raise


def read_tsv(path: Path, task: Task, labelled: bool) -> Iterator[Raw | Ragged]:
    """Tabs between columns, no quoting, a header except in CoLA. Raises Fault."""
    columns: Columns | None = None
    for row in read_cells(path, task, labelled):
        if isinstance(row, Ragged):
            yield row
            continue
        columns = columns or find_columns(task, tuple(row.by_name), labelled)
        yield _raw(row.line, row.by_name, columns)


def read_cells(path: Path, task: Task, labelled: bool) -> Iterator[Cells | Ragged]:
    """The rows of a TSV file by the names in its header, among which the task's columns are. Raises Fault."""
    names: tuple[str, ...] = ()
    for number, line in _lines(path):
        cells = line.split("\t")
        if not names:
            names = _names(task, cells, number, labelled)
            if names == tuple(cells):
                continue
        if len(cells) == len(names):
            yield Cells(number, dict(zip(names, cells, strict=True)))
        else:
            yield Ragged(number, len(cells), len(names))


def _names(task: Task, first: list[str], number: int, labelled: bool) -> tuple[str, ...]:
    """The header, which is the first line, or those of CoLA where the file has none. Raises Fault."""
    if task.name == "cola" and task.text_a not in first:
        return COLA_COLUMNS
    try:
        find_columns(task, first, labelled)
    except Fault as fault:
        fault.line = number
        raise
    return tuple(first)


def _raw(line: int, row: dict[str, Any], columns: Columns) -> Raw:
    text_b = None if columns.text_b is None else row[columns.text_b]
    label = None if columns.label is None else row[columns.label]
    return Raw(line, row[columns.text_a], text_b, label, None if columns.idx is None else row[columns.idx])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Raises Fault."""
    with opened(path) as stream:
        for number, raw in bounded_lines(stream.plain, LONGEST_LINE):
            if raw is None:
                raise Fault(f"a line of more than {LONGEST_LINE:,} bytes", "name a folder of text files", number)
            if raw and not raw.isspace():
                yield number, _decoded(raw, number)


def _decoded(raw: bytes, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not valid UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})"
        raise Fault(what, "save the file as UTF-8, or fetch it again", number) from None


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Fault(f"not valid JSON ({error})", "JSONL has one JSON object a line") from None
    if not isinstance(row, dict):
        raise Fault(f"{type(row).__name__} instead of a JSON object", "JSONL has one JSON object a line")
    return row
