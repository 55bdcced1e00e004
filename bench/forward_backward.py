"""Forward and backward of a LLaMA-60M on the CPU: transformers as it comes, and ours, as shares of the GEMM peak.

    python bench/forward_backward.py [--rounds 5] [--tokens 1024 8192] [--dtype bfloat16 float32] [--threads N]
    python bench/forward_backward.py --account …      what the seconds of our step are spent on, instead

Two processes, so that each has the memory allocator it would have in use, take turns: a 2048³ product, then one step.
Medians over the rounds. A step is 6·N·tokens + causal attention (half of the S×S square), N all matrices but the
embedding; the peak is the better of both processes' medians. `--cpu-time` counts CPU seconds of one thread instead of
elapsed ones: the ratios then hold on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SEQUENCE = 256
GEMM = 2048
LLAMA_60M = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
}

PARTS: dict[str, tuple[tuple[str, ...], bool | None]] = {  # operations, and whether one side is the vocabulary
    "products of the head": (("aten::mm",), True),
    "products of the body": (("aten::mm",), False),
    "products of attention": (("aten::bmm", "aten::baddbmm"), None),
    "softmax, copies of logits": (("aten::_softmax", "aten::copy_"), True),
    "softmax of attention": (("aten::_softmax",), False),
    "copies and casts": (("aten::copy_",), False),
}
REST = "elementwise and the rest"


def worker(ours: bool, threads: int | None, clock: Callable[[], float], pipe: Connection) -> None:
    """Answer (dtype, tokens) with (GEMM seconds, step seconds, FLOP per step), one measurement each."""
    notes: list[str] = []
    if ours:
        from galore.trainer.machine.process import prepare_process

        notes += prepare_process()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    steps: dict[tuple[str, int], tuple[Callable[[], None], int]] = {}
    pipe.send(notes)
    while (case := pipe.recv()) is not None:
        if case not in steps:
            steps.clear()  # one model at a time
            steps[case] = prepare(ours, *case)
            steps[case][0]()  # warm up
        step, flops = steps[case]
        a, out = torch.randn(2, GEMM, GEMM).to(getattr(torch, case[0]))
        pipe.send(
            (
                median_seconds(lambda a=a, out=out: torch.mm(a, a, out=out), clock, 5),
                median_seconds(step, clock, 1),
                flops,
            )
        )


def median_seconds(work: Callable[[], Any], clock: Callable[[], float], times: int) -> float:
    """Median seconds of `work`."""
    seconds = []
    for _ in range(times):
        start = clock()
        work()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def prepare(ours: bool, dtype: str, tokens: int) -> tuple[Callable[[], None], int]:
    """One forward and backward, and what it costs in FLOP."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from galore.trainer.data.rows.tokenbatch import TokenBatch
    from galore.trainer.models.cpu import optimize_decoder
    from galore.trainer.models.flops import attention_width, flops_per_token
    from galore.trainer.step import count_targets, summed_losses

    torch.manual_seed(0)
    config = LlamaConfig(**LLAMA_60M, use_cache=False, attn_implementation="sdpa")
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).train()
    ids = torch.randint(0, config.vocab_size, (tokens // SEQUENCE, SEQUENCE))
    batch = TokenBatch(ids, ids, tuple(range(len(ids))))
    if ours:
        optimize_decoder(model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss = (
            summed_losses(model, batch).total / count_targets(batch) if ours else model(input_ids=ids, labels=ids).loss
        )
        loss.backward()

    matrices = flops_per_token(model, 0)
    assert matrices is not None
    return step, tokens * (matrices + 6 * attention_width(model) * SEQUENCE)


def measure(pipes: dict[str, Connection], case: tuple[str, int], rounds: int) -> None:
    """Take turns, and print one line for each."""
    gemm: dict[str, list[float]] = {name: [] for name in pipes}
    step: dict[str, list[float]] = {name: [] for name in pipes}
    flops = 0
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(case)
            product, seconds, flops = pipe.recv()
            gemm[name].append(product)
            step[name].append(seconds)
    peak = 2 * GEMM**3 / min(statistics.median(times) for times in gemm.values())
    ratio = statistics.median(p / o for p, o in zip(*step.values(), strict=True))
    print(f"\n{case[0]}, {case[1]} tokens: GEMM peak {peak / 1e9:.0f} GFLOP/s; ours is {ratio:.2f}× as fast")
    for name, times in step.items():
        median = statistics.median(times)
        spread = f"{min(times):.3f}–{max(times):.3f}"
        print(
            f"  {name:13} {median:7.3f} s ({spread}) {case[1] / median:8.0f} tokens/s {flops / median / peak:7.1%} of peak"
        )


def account(case: tuple[str, int], rounds: int) -> None:
    """Print what the seconds of our step are spent on, and at what rate its products run; torch's profiler counts."""
    from torch.profiler import ProfilerActivity, profile

    step, flops = prepare(True, *case)
    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiler:
        for _ in range(rounds):
            step()
    seconds, done = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in profiler.key_averages(group_by_input_shape=True):
        part = part_of(event.key, str(LLAMA_60M["vocab_size"]) in str(event.input_shapes))
        seconds[part] += event.self_cpu_time_total / 1e6 / rounds
        done[part] += event.flops // rounds if "products" in part else 0
    whole = sum(seconds.values())
    print(f"\n{case[0]}, {case[1]} tokens: {whole:.3f} s a step, {flops / whole / 1e9:.0f} GFLOP/s")
    for part, each in sorted(seconds.items(), key=lambda item: -item[1]):
        rate = f"{done[part] / each / 1e9:8.0f} GFLOP/s" if done[part] else ""
        print(f"  {part:26} {each:7.3f} s {each / whole:7.1%}{rate}")


def part_of(operation: str, has_vocabulary: bool) -> str:
    """Which of PARTS an operation belongs to."""
    of = (
        name
        for name, (operations, wants) in PARTS.items()
        if operation in operations and wants in (None, has_vocabulary)
    )
    return next(of, REST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--account", action="store_true")
    options = parser.parse_args()
    if options.account:
        from galore.trainer.machine.process import prepare_process

        print(*prepare_process(), sep="\n")  # before torch is imported
        import torch

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        for dtype in options.dtype:
            for tokens in options.tokens:
                account((dtype, tokens), options.rounds)
        return
    clock = time.process_time if options.cpu_time else time.perf_counter
    threads = 1 if options.cpu_time else options.threads
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, ours in (("transformers", False), ("galore", True)):
        pipes[name], theirs = context.Pipe()
        context.Process(target=worker, args=(ours, threads, clock, theirs), daemon=True).start()
        for note in pipes[name].recv():
            print(f"{name}: {note}")
    print(f"{platform.machine()}, {threads or 'default'} threads, medians of {options.rounds} rounds")
    for dtype in options.dtype:
        for tokens in options.tokens:
            measure(pipes, (dtype, tokens), options.rounds)
    for pipe in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
