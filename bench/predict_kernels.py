"""Choose the kernels' tiles for an RTX 4090 by prediction, and tabulate what an update of LLaMA-7B should take with them.

python bench/predict_kernels.py                   rewrites the packaged table; minutes of compilation, no GPU
python bench/predict_kernels.py report [CARD]     the table of times as Markdown, on that card ("NVIDIA H100 80GB HBM3")
python bench/predict_kernels.py matmul [CARD]     both products of a layer in bf16, int8 and fp8, of 1B, 7B and 13B
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict

import torch

from galore.kernels.predict.card import CARDS, RTX4090, card_named
from galore.kernels.predict.catalogue import coded, coded_product, meta
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
from galore.kernels.storage.coded import WIDTH, Coded
from galore.kernels.storage.layout import group_size
from galore.kernels.triton.eight import encode_plan, regroup_plan
from galore.kernels.triton.launch import Launch
from galore.kernels.triton.tuning import PREDICTED, write

NOTE = "RTX 4090, predicted by kernels/predict/cost.py, not timed"
COLUMNS = ("floor", "ours", "nearest", "unfused", "reference")


TABLES = ("report", "matmul")
LAYERS = {  # (m, n) of a block's matrices
    "1B": ((2048, 2048), (5461, 2048), (2048, 5461)),
    "7B": ((4096, 4096), (11008, 4096), (4096, 11008)),
    "13B": ((5120, 5120), (13824, 5120), (5120, 13824)),
}
TOKENS = (2048, 8192)


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in TABLES:
        card = card_named(" ".join(sys.argv[2:]) or RTX4090.name)
        predictor = Predictor(card) if card else sys.exit(f"known are {', '.join(card.name for card in CARDS)}")
        (report if sys.argv[1] == "report" else matmul)(predictor)
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


def matmul(predictor: Predictor) -> None:
    """Forward and input gradient of a layer whose weight is in int8 codes, all that they ask for included."""
    print("| model | m×n | tokens | bf16, µs | int8 | fp8 | bf16 / int8 | bf16 / fp8 | of int8: products |")
    print("|" + "---|" * 9)
    for model, shapes in LAYERS.items():
        for m, n in shapes:
            for tokens in TOKENS:
                eight, multiplied = _eight(predictor, tokens, m, n, torch.int8)
                fp8, _ = _eight(predictor, tokens, m, n, torch.float8_e4m3fn)
                plain = _plain(predictor, tokens, m, n)
                times = " | ".join(f"{1e6 * each:.0f}" for each in (plain, eight, fp8))
                ratios = f"{plain / eight:.2f} | {plain / fp8:.2f} | {multiplied / eight:.0%}"
                print(f"| {model} | {m}×{n} | {tokens:,} | {times} | {ratios} |", flush=True)


def _plain(predictor: Predictor, tokens: int, m: int, n: int) -> float:
    """The weight formed in bf16 for each of two products at the card's share of its peak."""
    card = predictor.card
    product = 2.0 * tokens * m * n / (card.tensor_flops["bf16"] * card.tensor_share)
    return 2 * (product + card.launch + _pass(predictor, 3 * m * n))


def _pass(predictor: Predictor, moved: int) -> float:
    card = predictor.card
    return moved / (card.memory_bandwidth * card.memory_share) + card.launch


def _eight(predictor: Predictor, tokens: int, m: int, n: int, dtype: torch.dtype) -> tuple[float, float]:
    """(seconds of everything, of the products alone)."""
    products = sum(predictor.seconds(plan) for plan in _products(tokens, m, n, dtype))
    rows = sum(predictor.seconds(encode_plan(coded(tokens, k, k, dtype), meta(tokens, k), WORDS)) for k in (m, n))
    tops = _pass(predictor, 2 * tokens * m) + _pass(predictor, 2 * tokens * n)
    if dtype == torch.int8:
        held, size = meta(m, n, dtype=dtype), group_size(n)
        fresh = Coded(coded(n, m, m).codes, meta(-(-m // WIDTH), n, dtype=torch.float32), WIDTH)
        weight = predictor.seconds(regroup_plan(fresh, Coded(held, meta(m, n // size), size), True, WORDS))
        weight *= 1 if size % 16 == 0 else 2
    else:  # formed in bf16, its rows' and columns' tops, and their codes
        weight = 2 * (_pass(predictor, 3 * m * n) + _pass(predictor, 2 * m * n))
        weight += predictor.seconds(encode_plan(coded(m, n, n, dtype), meta(m, n), None))
        weight += predictor.seconds(encode_plan(coded(n, m, m, dtype), meta(m, n).mT, WORDS))
    return products + rows + tops + weight, products


WORDS = (1, 2)


def _products(tokens: int, m: int, n: int, dtype: torch.dtype) -> Iterator[list[Launch]]:
    for outputs, summands in ((m, n), (n, m)):
        size = WIDTH if dtype == torch.int8 else summands
        yield coded_product(tokens, outputs, summands, size, dtype)


def _print(name: str, row: Row) -> None:
    times = " | ".join(f"{getattr(row, column):.0f}" for column in COLUMNS)
    ratios = " | ".join(f"{getattr(row, column) / row.ours:.2f}" for column in ("unfused", "nearest", "reference"))
    print(f"| {name} | {row.r} | {times} | {100 * row.roofline:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
