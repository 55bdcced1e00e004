"""Projecting inside a linear layer's backward against projecting its weight gradient: `python bench/projection.py [--rounds 9]`.

bf16 layers of LLaMA-1B's shapes, d = 2048. In one process, in turn: `hook`, dW = δᵀx and then R = Pᵀ dW; and `factors`,
R = (δP)ᵀx, as the smaller side of the weight says. FLOPs are counted by torch on the operations that ran; seconds are medians of
the rounds, dx = δW, which both need, apart. The error is that of R to float64, relative.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from galore.trainer.machine.process import prepare_process

NOTES = prepare_process()

import torch  # noqa: E402 - after what has to come before it
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from galore.kernels.device import product  # noqa: E402
from galore.kernels.linear import Factors  # noqa: E402
from galore.kernels.reference.operations import is_transposed, orient  # noqa: E402

SHAPES = ((2048, 2048), (5461, 2048), (2048, 5461))
RANKS = (128, 512)
TOKENS = (1024, 4096)
GIGA = 1e9


def flops(apply: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        apply()
    return int(counter.get_total_flops())


def seconds(apply: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    apply()
    return time.perf_counter() - started


def row(m: int, n: int, rank: int, tokens: int, rounds: int) -> str:
    draw = torch.Generator().manual_seed(0)
    x, dy, w = (torch.randn(size, generator=draw).bfloat16() for size in ((tokens, n), (tokens, m), (m, n)))
    p = torch.linalg.qr(torch.randn(min(m, n), rank, generator=draw)).Q.bfloat16()
    factors, turned = Factors.of(x, dy), is_transposed((m, n))
    ways = {
        "hook": lambda: product(p.mT, orient(factors.multiply(), turned)),
        "factors": lambda: factors.project(p),
        "dx": lambda: dy @ w,
    }
    exact = Factors(factors.side.double(), factors.other.double(), turned).project(p.double())
    errors = [((ways[way]().double() - exact).norm() / exact.norm()).item() for way in ("hook", "factors")]
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, apply in ways.items():
            took[name].append(seconds(apply))
    hook, ours, dx = (statistics.median(took[name]) for name in ways)
    work = [flops(ways[name]) / GIGA for name in ("hook", "factors", "dx")]
    cells = [f"{work[0]:.1f}", f"{work[1]:.1f}", f"{work[0] / work[1]:.2f}", f"{1e3 * hook:.1f}", f"{1e3 * ours:.1f}"]
    cells += [f"{hook / ours:.2f}", f"{(hook + dx) / (ours + dx):.2f}", *(f"{each:.1e}" for each in errors)]
    return f"| {m}×{n} | {rank} | {tokens} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        "| W | r | tokens | hook, GFLOP | factors | ratio | hook, ms | factors | ratio | with dx | error, hook | factors |"
    )
    print("|---" * 12 + "|")
    for m, n in SHAPES:
        for rank in RANKS:
            for tokens in TOKENS:
                print(row(m, n, rank, tokens, args.rounds), flush=True)


if __name__ == "__main__":
    main()
