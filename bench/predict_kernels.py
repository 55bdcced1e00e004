"""Choose the kernels' tiles for an RTX 4090 by prediction, and tabulate what an update of LLaMA-7B should take with them.

python bench/predict_kernels.py                   rewrites the packaged table; minutes of compilation, no GPU
python bench/predict_kernels.py report [CARD]     the table of times as Markdown, on that card ("NVIDIA H100 80GB HBM3")
"""

from __future__ import annotations

import sys
from dataclasses import asdict

from galore.kernels.predict.card import CARDS, RTX4090, card_named
from galore.kernels.predict.predicted import Predictor, table
from galore.kernels.predict.sequences import (
    MATRICES,
    Row,
    all_matrices,
    ours,
    reference,
    rows,
    unfused,
    unfused_nearest,
)
from galore.kernels.triton.tuning import PREDICTED, write

NOTE = "RTX 4090, predicted by kernels/predict/cost.py, not timed"
COLUMNS = ("floor", "ours", "nearest", "unfused", "reference")


def main() -> None:
    if sys.argv[1:2] == ["report"]:
        card = card_named(" ".join(sys.argv[2:]) or RTX4090.name)
        report(Predictor(card) if card else sys.exit(f"known are {', '.join(card.name for card in CARDS)}"))
    else:
        write(PREDICTED, {entry.key: tile for entry, tile, _ in table(Predictor())}, NOTE)


def report(predictor: Predictor) -> None:
    """One update of each matrix; all 224 of them; and the arithmetic of one."""
    found = rows(predictor)
    print("| a×b | r |", " | ".join(COLUMNS), "| % of the floor | unfused / ours | nearest / ours | reference / ours |")
    print("|" + "---|" * (len(COLUMNS) + 6))
    for row in found:
        _print(f"{row.a}×{row.b}", row)
    for times in all_matrices([asdict(row) for row in found]):
        _print(f"all {MATRICES}, ms", Row(0, 0, **times))
    a, b, r = 4096, 11008, 128
    for name, steps in (("unfused", unfused), ("nearest", unfused_nearest), ("reference", reference)):
        print(f"\n{name}, {a}×{b}, r = {r}:")
        for step in steps(a, b, r):
            print(
                f"  {step.what}: {step.flops / 1e9:.1f} GFLOP, {step.bytes / 1e6:.0f} MB, {1e6 * step.seconds(predictor.card):.0f} µs"
            )
    for rank in (r, 1024):
        print(f"\nours, {a}×{b}, r = {rank}:")
        for launch in ours(a, b, rank):
            of, used = predictor.launch(launch), predictor.resources(launch)
            parts = ", ".join(f"{name} {1e6 * getattr(of, name):.0f}" for name in ("tensor", "memory", "l2", "issue"))
            shape = "×".join(str(launch.constants[name]) for name in ("BM", "BN", "BK") if name in launch.constants)
            print(
                f"  {launch.name} {shape}: {1e6 * of.seconds:.0f} µs, bound by {of.bound} ({parts} µs); {used.registers} registers, "
                f"{used.shared} B shared, {of.blocks_per_sm} blocks per SM, {of.waves:.1f} waves, {launch.bytes / 1e6:.0f} MB"
            )


def _print(name: str, row: Row) -> None:
    times = " | ".join(f"{getattr(row, column):.0f}" for column in COLUMNS)
    ratios = " | ".join(f"{getattr(row, column) / row.ours:.2f}" for column in ("unfused", "nearest", "reference"))
    print(f"| {name} | {row.r} | {times} | {100 * row.roofline:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
