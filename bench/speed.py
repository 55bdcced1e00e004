"""`galore train` against transformers' Trainer with galore-torch: LLaMA-60M, bf16, the same rows, in one run.

    python bench/speed.py [--steps 400] [--block 25]

Both refresh every 200 steps. Between the turns the bf16 GEMM peak is measured. FLOPs are 6 per weight of a linear layer and
token, and causal attention (half of PaLM's count).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from turns import Child, Task

VOCABULARY, LENGTH, LAYERS, WIDTH, INNER = 32_000, 256, 8, 512, 1376
WEIGHTS = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER) + WIDTH * VOCABULARY
FLOPS_PER_TOKEN = 6 * WEIGHTS + 6 * LAYERS * WIDTH * LENGTH


def task(rows: int, steps: int) -> Task:
    """`rows` sequences in one micro-batch."""
    return Task("llama-60m-galore", rows, rows, steps, settings=("optim.projection=backward",))


def gemm_peak() -> float:
    """bf16 GEMM of 2048³ in FLOP/s, best of ten."""
    import torch

    a = torch.randn(2048, 2048).bfloat16()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def versus(steps: int, block: int) -> None:
    """Both sides in turns at 1,024 tokens per step; then ours alone at 8,192."""
    galore, trainer = Child("ours", task(4, steps)), Child("theirs", task(4, steps))
    print(galore.ready, trainer.ready, flush=True)
    peaks, ratios, fractions = [], [], []
    for _ in range(steps // block):
        peaks.append(gemm_peak())
        fast, slow = galore.take(block), trainer.take(block)
        ratios.append(fast / slow)
        fractions.append(fast * FLOPS_PER_TOKEN / peaks[-1])
        print(
            f"galore {fast:7.0f} tok/s   Trainer {slow:7.0f} tok/s   ratio {ratios[-1]:.2f}   "
            f"of GEMM peak {fractions[-1]:.3f} / {slow * FLOPS_PER_TOKEN / peaks[-1]:.3f}",
            flush=True,
        )
    print(
        f"\n{steps} steps of 1,024 tokens: galore {galore.tokens_per_second:.0f} tok/s, Trainer + galore-torch "
        f"{trainer.tokens_per_second:.0f} tok/s, ratio {galore.tokens_per_second / trainer.tokens_per_second:.2f} "
        f"(blocks: median {median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f})"
    )
    print(
        f"GEMM peak {median(peaks) / 1e9:.0f} GFLOP/s (median); galore forward + backward + step: median {median(fractions):.3f} of it"
    )
    trainer.end()
    galore.end()
    large, fractions = Child("ours", task(32, 40)), []
    large.take(4)
    for _ in range(5):
        peak = gemm_peak()
        fractions.append(large.take(5) * FLOPS_PER_TOKEN / peak)
    print(
        f"8,192 tokens per step: median {median(fractions):.3f} of the GEMM peak ({min(fractions):.3f}–{max(fractions):.3f})"
    )
    large.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--block", type=int, default=25)
    arguments = parser.parse_args()
    versus(arguments.steps, arguments.block)


if __name__ == "__main__":
    main()
