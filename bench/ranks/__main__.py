"""`python -m ranks`: carry out the parts on this machine, those trials that have not held yet. Exit code 1 if one did not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from prove import child

from ranks import agents, memory, parts, shards
from ranks.records import Records, page
from ranks.trials import carry_out

ROOT = Path(__file__).parents[2]
PARTS = parts.PARTS | agents.PARTS | shards.PARTS | memory.PARTS


def main() -> None:
    parser = argparse.ArgumentParser(prog="ranks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"{', '.join(PARTS)}; all without any")
    parser.add_argument("--out", type=Path, default=ROOT / "build/ranks.jsonl", help="file of the records")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no trial is begun")
    parser.add_argument("--page", action="store_true", help="print the records as tables, and try nothing")
    arguments = parser.parse_args()
    records = Records(arguments.out)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if arguments.page:
        print("\n\n".join(page(records, name) for name in arguments.parts))
        return
    until, held = time.monotonic() + 60 * arguments.minutes, True
    child.preload()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.parts:
            print(f"{name}: {PARTS[name].shows}", flush=True)
            for record in carry_out(PARTS[name], Path(folder), records, until, arguments.seed):
                print(f"  {record}", flush=True)
                held &= record.holds is not False
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
