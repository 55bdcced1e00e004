"""The few pieces of Markdown that a report is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[object]], right: str = "") -> str:
    """A table; `right` has an `r` at the place of every column that is aligned to the right."""
    if not rows:
        return ""
    marks = ["--:" if right[index : index + 1] == "r" else "---" for index in range(len(head))]
    return "\n".join(_row(cells) for cells in (head, marks, *rows)) + "\n"


def section(title: str, *parts: str) -> str:
    """A heading with its text, or nothing where there is none."""
    body = "\n".join(part for part in parts if part)
    return f"## {title}\n\n{body}" if body else ""


def fence(text: str, language: str = "") -> str:
    """`text` as it is, whatever it holds: the fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}\n"


def details(summary: str, body: str) -> str:
    """A part that is folded until asked for."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n</details>\n" if body else ""


def _row(cells: Sequence[object]) -> str:
    texts = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(texts)} |"
