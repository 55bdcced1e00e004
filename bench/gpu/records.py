"""The records of a proof: one JSON line each, on the disk the moment it is known, so that a run cut off keeps what it had."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import recordlines

Kind = Literal["machine", "figure", "end"]


@dataclass(frozen=True)
class Record:
    """One thing that was found out. `ok`: whether what is promised holds; None where there is only a figure to tell."""

    proof: str
    what: str
    ok: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "figure"
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        mark = {True: "yes", False: "NO ", None: "   "}[self.ok]
        told = ", ".join(f"{name} {spoken(value)}" for name, value in self.figures.items())
        return f"{mark} {self.what}{': ' if told else ''}{told}"


class Records:
    """A file of records, appended to by the runner and by each proof in its own process."""

    def __init__(self, file: Path, proof: str = "") -> None:
        self.file, self.proof = file, proof
        file.parent.mkdir(parents=True, exist_ok=True)

    def note(self, what: str, ok: bool | None = None, **figures: Any) -> None:
        """Write one record of this proof, and say it."""
        self.add(Record(self.proof, what, ok, figures))

    def add(self, record: Record) -> None:
        """Said first: a disk that is full costs the line in the file, and no proof."""
        print(f"  {record}", flush=True)
        try:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            print(f"  NOT written to {self.file}: {error}", flush=True)

    def __iter__(self) -> Iterator[Record]:
        return recordlines.read(self.file, Record)


def spoken(value: Any) -> str:
    """A figure as people read it: three or four digits, no exponent for what is near one."""
    if not isinstance(value, float):
        return str(value)
    return (
        f"{value:.4g}"
        if 1e-3 <= abs(value) < 1e4 or value == 0
        else f"{value:,.0f}"
        if abs(value) >= 1e4
        else f"{value:.1e}"
    )
