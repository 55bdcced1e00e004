"""The records of the proof: one JSON line a trial, on the disk the moment it is known, and their summary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import recordlines

MOST_LINES = 60
WIDTH = 200
END = "end"  # kind of the record with which a part ends


@dataclass(frozen=True)
class Record:
    """A trial of `kind`. `ok`: whether what is promised held; None where there is only something to tell."""

    part: str
    kind: str
    ok: bool | None = None
    told: str = ""
    seconds: float = 0.0
    time: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"{'NOT ' if self.ok is False else ''}{self.kind}{': ' if self.told else ''}{self.told}"


class Records:
    """A file of records, which the runner and each part in its own process append to."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> None:
        with self.file.open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.write(json.dumps(asdict(record)) + "\n")
        if record.ok is not True or record.kind == END:
            print(f"  {record}"[: 5 * WIDTH], flush=True)

    def __iter__(self) -> Iterator[Record]:
        return recordlines.read(self.file, Record)


def summary(records: Records) -> str:
    """At most 60 lines: per part what was tried, held and did not, then what did not."""
    found = list(records)
    parts = list(dict.fromkeys(record.part for record in found))
    heads = [_headline(part, [record for record in found if record.part == part]) for part in parts]
    wrong = [f"  {record.part}: {record}"[:WIDTH] for record in found if record.ok is False and record.kind != END]
    rest = [f"  {r.part}: {r}"[:WIDTH] for r in found if r.ok is None]
    lines, room = [*wrong, *rest], MOST_LINES - len(heads) - 2
    if len(lines) > room:
        lines = [*lines[: room - 1], f"  … {len(lines) - room + 1} more in the records"]
    return "\n".join([f"  {'part':10} {'tried':>6} {'held':>6} {'did not':>8}", *heads, "", *lines])


def _headline(part: str, mine: list[Record]) -> str:
    held, not_held = (sum(r.ok is wanted and r.kind != END for r in mine) for wanted in (True, False))
    end = next((record for record in mine if record.kind == END), None)
    ended = f"{end.told}, {end.seconds:.0f} s" if end else "cut off"
    return f"  {part:10} {held + not_held:6,} {held:6,} {not_held:8,}   {ended}"
