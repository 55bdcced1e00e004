"""Parts one after the other, each in a forked process with a cap, all of them within a budget."""

from __future__ import annotations

import gc
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prove import shim
from prove.child import start
from prove.parts import Part
from prove.records import END, Record, Records
from prove.trials import Trials

LEAST = 3.0  # seconds that are worth beginning with
GRACE = 50.0  # for the last trial of a part whose time is up: more than that of a child
LATE = 2.0  # times its seconds, for the fewest trials of a part where the machine is busy


@dataclass(frozen=True)
class Plan:
    """How parts are carried out: in `folder`, from `seed`, all within `budget` seconds, of which each has a share by its
    cap; `sample`: a few trials of each."""

    folder: Path
    seed: int
    budget: float
    sample: bool = False


def with_shim() -> None:
    """Begin this program anew with the shim loaded and one thread a process; returns where that is so already."""
    library = str(shim.build())
    if shim.loaded():
        return
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **alone, "LD_PRELOAD": library})


def run_all(parts: Sequence[Part], plan: Plan, records: Records) -> bool:
    """Carry out `parts`; returns whether every one came to its end and everything promised held."""
    ends = time.monotonic() + plan.budget
    gc.collect()
    gc.freeze()
    for number, part in enumerate(parts):
        left = ends - time.monotonic()
        if left < LEAST:
            records.add(Record(part.name, END, False, "left out: the budget is spent"))
            continue
        share = part.cap / sum(each.cap for each in parts[number:])
        carry_out(part, plan, records, part.cap if math.isinf(left) else share * left)
    return all(record.ok is not False for record in records)


def longest(seconds: float) -> float:
    """When a part of so many seconds is stopped."""
    return LATE * seconds + GRACE


def carry_out(part: Part, plan: Plan, records: Records, seconds: float) -> None:
    """One part in a process of its own, of which nothing is left afterwards."""
    print(f"\n{part.name}: {part.shows} (at most {seconds:.0f} s)", flush=True)
    trials = Trials(part.name, records, plan.folder / part.name, plan.seed, seconds, plan.sample)

    def work() -> int:
        tempfile.tempdir = os.environ["TMPDIR"] = str(trials.folder)
        os.environ["XDG_CACHE_HOME"] = str(trials.folder / "home")
        try:
            part.run(trials)
        except Exception as error:
            traceback.print_exc()
            trials.check("the part itself", False, f"broke off: {type(error).__name__}: {error}")
            return 1
        return 0

    ended = start(work, said=None).wait(longest(seconds))
    told = "done" if ended.code == 0 else "stopped at its cap" if ended.hung else f"exit {ended.code}"
    records.add(Record(part.name, END, ended.code == 0, told, round(ended.seconds, 1)))
