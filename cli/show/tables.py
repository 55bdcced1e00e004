"""What a verb prints on a screen of any width: words wrap, rows become blocks where they do not fit, nothing is cut."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from galore.cli.show.progress.cells import Cell, lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

NARROWEST = 30  # columns beside a name, below which a text stands under it
GAP = 2  # columns between two columns of a table
QUOTED = re.compile(r"`[^`\n]+`")  # a command in a text, which is to be copied whole
JOINT = "\0"  # for a blank at which no line ends


def screen() -> Console:
    """Standard output, as wide as the terminal or as COLUMNS says; 80 columns where neither is known."""
    from rich.console import Console

    return Console(highlight=False)


def say(text: str, hanging: str = "", bold: bool = False) -> None:
    """A paragraph, wrapped between words; in a pipe one line, for grep. `hanging` indents all but the first line."""
    typer.secho("\n".join(_wrapped(text, _width(), hanging)), bold=bold)


def say_command(words: Sequence[str]) -> None:
    """A command as a shell takes it, in one line: a terminal that folds it gives it back whole to whoever copies it."""
    typer.echo(shlex.join(words))


def say_pairs(pairs: Iterable[tuple[str, str]], indent: str = "") -> None:
    """A name and a text in every line, the texts below each other."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0) + GAP
    if _width() - width - len(indent) >= NARROWEST:
        for name, text in known:
            say(f"{indent}{name:<{width}}{text}", hanging=indent + " " * width)
        return
    for name, text in known:
        say(f"{indent}{name}")
        say(f"{indent}  {text}", hanging=f"{indent}  ")


def show_table(console: Console, table: Table, narrow: Table | None = None) -> None:
    """A table; columns that are not `no_wrap` give way, and never so far that a word is torn.

    Args:
        narrow: the same in fewer columns, shown where that fits and `table` does not.
    """
    if narrow is not None and least_width(narrow) <= console.width < least_width(table):
        table = narrow
    spare = console.width - least_width(table)
    if spare < 0:
        _show_blocks(console, table)
        return
    for column in table.columns:
        least, most = _least(column), _longest_line(column)
        column.width = min(most, least + spare)
        spare -= column.width - least
    table.pad_edge = False
    console.print(table)


def least_width(table: Table) -> int:
    """Columns of the screen that a table takes before a word of it is torn."""
    return sum(map(_least, table.columns)) + GAP * (len(table.columns) - 1)


def _show_blocks(console: Console, table: Table) -> None:
    """The first cell of a row on a line of its own, what the others hold below it, with their headings."""
    first, *others = ([str(cell) for cell in column.cells] for column in table.columns)
    heads = [str(column.header) for column in table.columns[1:]]
    for title, *cells in zip(first, *others, strict=True):
        for line in title.splitlines():
            typer.secho("\n".join(_wrapped(line, console.width, "  ")), bold=line == title.splitlines()[0])
        shown = [Cell(head, cell) for head, cell in zip(heads, cells, strict=True) if cell]
        for row in lines(shown, console.width - GAP, GAP):
            typer.echo("\n".join(_wrapped("  " + "  ".join(map(str, row)), console.width, "    ")))


def numbers(table: Table, names: Iterable[int]) -> None:
    """Columns of numbers: to the right, and whole."""
    for index in names:
        table.columns[index].justify, table.columns[index].no_wrap = "right", True


def _texts(column: Column) -> list[str]:
    return [str(column.header), *(str(cell) for cell in column.cells)]


def _longest_line(column: Column) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in _texts(column) for line in text.splitlines() or [""])


def _least(column: Column) -> int:
    from rich.cells import cell_len

    if column.no_wrap:
        return _longest_line(column)
    return max(cell_len(word) for text in _texts(column) for word in text.split() or [""])


def _width() -> int:
    """Columns to wrap at; in a pipe without a word about it no end."""
    return screen().width if sys.stdout.isatty() or "COLUMNS" in os.environ else sys.maxsize


def _wrapped(text: str, width: int, hanging: str) -> Sequence[str]:
    if len(text) <= width:
        return [text]
    begin = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(
        QUOTED.sub(_joined, text),
        width,
        subsequent_indent=hanging or begin,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return [line.replace(JOINT, " ") for line in lines] or [""]


def _joined(quoted: re.Match[str]) -> str:
    return quoted[0].replace(" ", JOINT)
