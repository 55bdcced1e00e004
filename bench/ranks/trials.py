"""A part and its trials: what is tried, and the record of each, by the name it has in the file of records."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranks.records import Record, Records

Trials = dict[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Part:
    """`trials` are what it tries, by name; `header` heads the table of their figures."""

    name: str
    shows: str
    header: tuple[str, ...]
    trials: Callable[[Path, random.Random], Trials]


def carry_out(part: Part, folder: Path, records: Records, until: float, seed: int) -> Iterator[Record]:
    """The trials that have not held yet, as long as there is time to begin one."""
    done = {record.trial for record in records if record.part == part.name and record.holds is not False}
    for number, (trial, work) in enumerate(part.trials(folder / part.name, random.Random(seed)).items()):
        if trial in done or time.monotonic() > until:
            continue
        started = time.monotonic()
        try:
            figures = work()
        except Exception as error:
            figures = {"holds": False, "error": f"{type(error).__name__}: {str(error)[-600:]}"}
        yield records.add(Record(part.name, trial, figures, round(time.monotonic() - started, 1)))
        shutil.rmtree(folder / part.name / str(number), ignore_errors=True)
