"""What isolating the examples of packed rows costs: forward and backward on the CPU, three ways in turn.

    python bench/isolate.py [--rounds 5] [--rows 2] [--lengths 512 2048] [--examples 30 100 300] [--dtype bfloat16 float32]

leaking: every example sees those before it. isolated: attention within each, as `data.isolate_documents` has it.
masked: the same by a mask of all pairs of positions, as transformers makes one of positions that restart. Lengths of
examples are geometric around the given mean, so that they differ. Seconds are of the CPU, of one thread: the ratios hold
on a machine that others use, too; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

WAYS = ("leaking", "isolated", "masked")
LLAMA = {
    "vocab_size": 8192,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 4096,
}  # layers of SmolLM2-135M


def row(length: int, mean: int, generator: torch.Generator) -> torch.Tensor:
    """Positions (length,) of examples whose lengths are geometric around `mean`, the last one cut."""
    ends = torch.rand(length, generator=generator) < 1 / mean
    starts = torch.cat((torch.ones(1, dtype=torch.bool), ends[:-1]))
    at = torch.arange(length)
    return at - torch.where(starts, at, 0).cummax(0).values


def prepare(way: str, dtype: torch.dtype, positions: torch.Tensor) -> tuple[Callable[[], float], str]:
    """One forward and backward, which returns the loss, and the attention that it takes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from galore.trainer.data.rows.tokenbatch import TokenBatch
    from galore.trainer.models.cpu import optimize_decoder
    from galore.trainer.models.head import split_head
    from galore.trainer.models.isolation import isolate_documents

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA, use_cache=False, attn_implementation="sdpa")).to(dtype).train()
    optimize_decoder(model)
    ids = torch.randint(0, LLAMA["vocab_size"], positions.shape)
    if way == "isolated":
        isolate_documents(model)
    if way == "masked":
        model.set_attn_implementation("sdpa")
    batch = TokenBatch.of(ids.numpy(), ids.numpy(), range(len(ids)), positions.numpy())
    if way == "leaking":
        batch = TokenBatch(batch.input_ids, batch.labels, batch.sequence_ids)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        loss = batch.losses(model, split_head).total / batch.targets
        loss.backward()
        return float(loss.detach())

    return step, model.config._attn_implementation


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    for dtype in arguments.dtype:
        for length in arguments.lengths:
            for mean in arguments.examples:
                yield dtype, length, mean


def measure(dtype: str, length: int, mean: int, rows: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(length + mean)
    positions = torch.stack([row(length, mean, generator) for _ in range(rows)])
    ways = {way: prepare(way, getattr(torch, dtype), positions) for way in WAYS}
    losses = {way: step() for way, (step, _) in ways.items()}  # warms up
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, (step, _) in ways.items():
            start = time.thread_time()
            step()
            seconds[way].append(time.thread_time() - start)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    examples = int((positions == 0).sum())
    print(f"{dtype}, {rows} rows of {length}, {examples} examples of {positions.numel() / examples:.0f} tokens")
    for way in WAYS:
        print(
            f"  {way:9} {positions.numel() / medians[way]:7.0f} tokens/s, {medians['leaking'] / medians[way]:5.2f}× leaking "
            f"(loss {losses[way]:.5f}, {ways[way][1]})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--examples", type=int, nargs="+", default=[30, 100, 300], help="mean tokens of an example")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # seconds of one thread are all there are
    for dtype, length, mean in cases(arguments):
        measure(dtype, length, mean, arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
