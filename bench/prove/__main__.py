"""`python -m prove`: carry out the parts on this machine. Exit code 1 if something that is promised did not hold."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

from prove import shim
from prove.parts import NAMES, PARTS
from prove.records import Records, summary

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="prove", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help=f"parts, separated by commas: {', '.join(NAMES)}")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        help="seconds for all of them, each by its share, else what their caps come to; the fewest trials of a busy machine may take twice as long",
    )
    parser.add_argument("--seed", type=int, help="of all that is drawn; a fresh one is printed")
    parser.add_argument("--sample", action="store_true", help="a few trials of each part, as in the tests")
    parser.add_argument("--out", type=Path, default=ROOT / "build/prove/out", help="folder of the records")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    if unknown := set(names) - set(NAMES):
        sys.exit(f"--only: no part is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if reason := shim.why_not():
        sys.exit(reason)
    from prove.runner import Plan, run_all, with_shim

    with_shim()
    from prove.child import preload

    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 10**6
    print(f"seed {seed}; importing", flush=True)
    preload()
    records = Records(arguments.out.absolute() / f"{time.strftime('%Y-%m-%d-%H%M%S')}.jsonl")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="galore-prove-", dir=memory if memory.is_dir() else None) as folder:
        plan = Plan(Path(folder), seed, arguments.budget, arguments.sample)
        held = run_all([part for part in PARTS if part.name in names], plan, records)
    print(f"\n{summary(records)}\nseed {seed}, records: {records.file}", flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
