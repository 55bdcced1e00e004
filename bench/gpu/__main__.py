"""`python -m gpu`: carry out the proofs on the card that is here, or rehearse them without one; then see `page`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gpu.page import Source, page, summary
from gpu.proofs import NAMES, PROOFS, estimated
from gpu.records import Records
from gpu.runner import run_all
from gpu.scale import Scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__)
    parser.add_argument("--only", default=",".join(NAMES), help=f"proofs, separated by commas: {', '.join(NAMES)}")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for all of them")
    parser.add_argument("--out", type=Path, default=Path("build/gpu/out"), help="folder of the records")
    parser.add_argument("--rehearse", action="store_true", help="every proof on the CPU, with tiny shapes")
    parser.add_argument(
        "--smoke", action="store_true", help="all of them at once, briefly: what breaks; times mean nothing"
    )
    parser.add_argument("--sizes", type=int, help="so many sizes at most of each proof that times some")
    verbs = parser.add_subparsers(dest="verb")
    one = verbs.add_parser("one", help="a single proof, in this process")
    one.add_argument("name", choices=NAMES)
    one.add_argument("--records", type=Path, required=True)
    one.add_argument("--folder", type=Path, required=True)
    one.add_argument("--rehearse", action="store_true")
    one.add_argument("--smoke", action="store_true")
    one.add_argument("--sizes", type=int)
    results = verbs.add_parser("page", help="the results page of a records file, Markdown")
    results.add_argument("files", nargs="+", help="of one card, FILE or FILE:proof,proof… for those proofs alone")
    verbs.add_parser("estimate", help="seconds of every proof on an H100, predicted")
    arguments = parser.parse_args()
    if arguments.verb == "one":
        _one(arguments)
    elif arguments.verb == "page":
        print(page([Source.of(words) for words in arguments.files]), end="")
    elif arguments.verb == "estimate":
        _estimate()
    else:
        _all(arguments)


def _all(arguments: argparse.Namespace) -> None:
    names = [name.strip() for name in arguments.only.split(",") if name.strip()]
    if unknown := set(names) - set(NAMES):
        sys.exit(f"--only: no proof is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    how = "-rehearsal" * arguments.rehearse + "-smoke" * arguments.smoke
    file = arguments.out.absolute() / f"{time.strftime('%Y-%m-%d-%H%M%S')}{how}.jsonl"
    with tempfile.TemporaryDirectory(prefix="galore-gpu-") as folder:
        scale = Scale(arguments.rehearse, Path(folder), arguments.smoke, arguments.sizes)
        held = run_all([proof for proof in PROOFS if proof.name in names], scale, file, arguments.budget)
    print(f"\n{summary(Records(file))}\nrecords: {file}", flush=True)
    sys.exit(0 if held else 1)


def _one(arguments: argparse.Namespace) -> None:
    records = Records(arguments.records, arguments.name)
    proof = next(proof for proof in PROOFS if proof.name == arguments.name)
    try:
        proof.run(Scale(arguments.rehearse, arguments.folder, arguments.smoke, arguments.sizes), records)
    except (Exception, SystemExit) as error:  # whatever it is, it is a finding: what was noted before it stays
        traceback.print_exc()
        records.note(f"broke off: {type(error).__name__}: {str(error)[:300]}", ok=False)
        sys.exit(1)


def _estimate() -> None:
    for proof in PROOFS:
        print(f"{proof.name:10} {proof.estimate:5.0f} s, cap {proof.cap:3} s   {proof.shows}")
    print(f"{'together':10} {estimated(PROOFS):5.0f} s")


if __name__ == "__main__":
    main()
