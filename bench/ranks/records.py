"""The records of the trials: one JSON line each, on the disk the moment it is known, and a page of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import recordlines


@dataclass(frozen=True)
class Record:
    """One trial. `figures["holds"]`: whether what is promised held; None where there are only figures."""

    part: str
    trial: str
    figures: dict[str, Any]
    seconds: float

    @property
    def holds(self) -> bool | None:
        return self.figures["holds"]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        told = ", ".join(f"{key} {spoken(value)}" for key, value in self.figures.items() if key != "holds")
        return f"{'NOT ' if self.holds is False else ''}{self.part}: {self.trial}: {told}"


class Records:
    """A file of records, appended to."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> Record:
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(record)) + "\n")
        return record

    def __iter__(self) -> Iterator[Record]:
        return recordlines.read(self.file, Record)


def spoken(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(spoken(each) for each in value)
    return (
        f"{value:.1e}"
        if isinstance(value, float) and 0 < abs(value) < 0.01
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )


def page(records: Records, part: str) -> str:
    """A part's records as a Markdown table, the last of each trial, a column per figure."""
    mine = list({record.trial: record for record in records if record.part == part}.values())
    keys = list(dict.fromkeys(key for record in mine for key in record.figures if key != "holds"))
    lines = [f"| {part} | holds | {' | '.join(keys)} |", "|---" * (len(keys) + 2) + "|"]
    for record in mine:
        holds = {True: "yes", False: "**no**", None: ""}[record.holds]
        cells = [spoken(record.figures.get(key, "")).replace("|", "\\|") for key in keys]
        lines.append(f"| {record.trial} | {holds} | {' | '.join(cells)} |")
    return "\n".join(lines)
