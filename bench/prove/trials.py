"""The trials of one part: which there is time for, what came of each, and where they may write."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from prove.records import Record, Records

T = TypeVar("T")


class Trials:
    """`sample`: only a few of each kind, for a test. `rng` is the seed's; `ends` is when time is up, except for the
    fewest trials that each kind takes whatever the clock says."""

    def __init__(self, part: str, records: Records, folder: Path, seed: int, seconds: float, sample: bool) -> None:
        self.part, self.records, self.folder, self.sample = part, records, folder, sample
        self.rng = random.Random(f"{part} {seed}")
        self.ends = time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)

    def some(
        self, cases: Iterable[T], what: str, sample: int = 2, most: int | None = None, least: int = 0
    ) -> Iterator[T]:
        """`cases` in an order of the seed, as many as there is time for, `least` of them in any case; those left out
        are counted."""
        chosen = list(cases)
        self.rng.shuffle(chosen)
        chosen = chosen[: sample if self.sample else most]
        for number, case in enumerate(chosen):
            if number >= least and not self.sample and time.monotonic() > self.ends:
                self.note(f"no time for {len(chosen) - number:,} of {len(chosen):,} {what}")
                return
            yield case

    def check(self, kind: str, ok: bool, told: object = "") -> bool:
        """Note a trial: that what is promised held, or what came instead."""
        self.records.add(Record(self.part, kind, ok, "" if ok else str(told)))
        return ok

    def note(self, text: str) -> None:
        self.records.add(Record(self.part, text))

    def fresh(self, name: str, like: Path | None = None) -> Path:
        """A path of this part at which there is nothing, or a copy of `like`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if like is not None:
            shutil.copytree(like, path, symlinks=True)
        return path

    @property
    def said(self) -> Path:
        """The file that a child's words go to."""
        return self.folder / "said.txt"
