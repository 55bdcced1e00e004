"""Adam's moments in 8 bits against fp32, on the CPU: one step of GaLoreAdamW on bf16 weights, both in turn in one process.

    python bench/states.py [--rounds 15] [--threads 1 2] [--elapsed]

Weights of LLaMA-1B's shapes (2048 and 5461), rank 512, no refresh in the steps that are timed, nor the projection of the
gradients, which is done before. Ratio of the medians over the rounds. With one thread CPU seconds of that thread are
counted, so that the ratio holds on a machine that others use, too; with more, or `--elapsed`, elapsed seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from galore.trainer.machine.process import prepare_process

SHAPES = {"wide": [(2048, 5461)], "tall": [(5461, 2048)], "layer": 4 * [(2048, 2048)] + 3 * [(5461, 2048)]}
RANK = 512


def stepper(state_dtype: str, shapes: list[tuple[int, int]], clock: Callable[[], float]) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    import torch

    from galore.trainer.optim import GaLoreAdamW

    weights = [torch.nn.Parameter(0.02 * torch.randn(shape).bfloat16()) for shape in shapes]
    grads = [(1e-3 * torch.randn_like(weight)).detach() for weight in weights]
    optimizer = GaLoreAdamW(
        [{"params": weights, "rank": RANK, "update_proj_gap": 10**6}],
        stagger=False,
        refresh="summed",
        state_dtype=state_dtype,  # type: ignore[arg-type]
    )

    def step() -> float:
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        optimizer.clip_grad_norm_(1.0)  # takes the gradients over and projects them
        start = clock()
        optimizer.step()
        return clock() - start

    step()  # makes the moments and the subspaces
    return step


def compare(shapes: list[tuple[int, int]], threads: int, rounds: int, elapsed: bool) -> tuple[float, float]:
    """Median seconds of a step, moments in fp32 and in 8 bits."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    clock = time.perf_counter if elapsed or threads > 1 else time.thread_time
    steppers = [stepper(state_dtype, shapes, clock) for state_dtype in ("float32", "8bit")]
    seconds = [[step() for step in steppers] for _ in range(rounds + 2)][2:]
    single, eight = (statistics.median(column) for column in zip(*seconds, strict=True))
    return single, eight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--elapsed", action="store_true")
    args = parser.parse_args()
    for line in prepare_process():
        print(line)
    for threads in args.threads:
        for name, shapes in SHAPES.items():
            single, eight = compare(shapes, threads, args.rounds, args.elapsed)
            print(
                f"{threads} threads, {name:5}: fp32 {1e3 * single:7.1f} ms, 8bit {1e3 * eight:7.1f} ms,"
                f" ratio {eight / single:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
