"""Retention beside attention on the CPU, by length: the networks of two recipes in turn, of as many weights.

    python bench/retnet.py steps [--lengths 128 512 2048 8192] [--tokens 8192] [--rounds 3]
    python bench/retnet.py generation [--lengths 128 1024 8192] [--new 16]

steps: tokens per second of forward and backward, loss included, for rows of each length. generation: what is kept of a
prompt of each length, and the time of one token after it. Seconds are of the CPU, of one thread: the ratios hold on a
machine that others use, too; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

RECIPES = ("demo", "retnet-demo")


def network(recipe: str, dtype: str) -> Any:
    from galore.trainer.build import build_model
    from galore.trainer.recipe.load import load_recipe

    settings = [f"model.dtype={dtype}", "model.max_position_embeddings=65536"]
    return build_model(load_recipe(recipe, settings).recipe, 2048, "cpu", Path.cwd())[0]


def steps(lengths: list[int], tokens: int, rounds: int, dtype: str) -> None:
    from galore.trainer.data.rows.tokenbatch import TokenBatch
    from galore.trainer.step import summed_losses

    models = {recipe: network(recipe, dtype) for recipe in RECIPES}
    print(f"| tokens per row | {' | '.join(f'{recipe}, tokens/s' for recipe in RECIPES)} | ratio |\n|---|---|---|---|")
    for length in lengths:
        ids = torch.randint(0, 2048, (tokens // length, length))
        batch = TokenBatch(ids, ids, tuple(range(len(ids))))
        seconds: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
        for _ in range(rounds + 1):
            for recipe, model in models.items():
                model.zero_grad()
                started = time.thread_time()
                summed_losses(model, batch).total.backward()  # type: ignore[no-untyped-call]
                seconds[recipe].append(time.thread_time() - started)
        rates = [tokens / statistics.median(seconds[recipe][1:]) for recipe in RECIPES]
        print(f"| {length:,} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[1] / rates[0]:.2f} |", flush=True)


@torch.no_grad()
def generation(lengths: list[int], new: int, dtype: str) -> None:
    models = {recipe: network(recipe, dtype).eval() for recipe in RECIPES}
    columns = " | ".join(f"{recipe}: kept, KiB | ms per token" for recipe in RECIPES)
    print(f"| prompt | {columns} |\n{'|---' * 5}|")
    for length in lengths:
        ids, cells = torch.randint(0, 2048, (1, length)), []
        for model in models.values():
            out = model(ids, use_cache=True)
            times = []
            for _ in range(new):
                started = time.thread_time()
                out = model(ids[:, -1:], past_key_values=out.past_key_values, use_cache=True)
                times.append(time.thread_time() - started)
            cells.append(f"{kept(out.past_key_values) / 1024:,.0f} | {1000 * statistics.median(times):.1f}")
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)


def kept(cache: Any) -> int:
    """Bytes of keys and values, or of states."""
    states = getattr(cache, "states", None)
    tensors = states if states is not None else [x for layer in cache.layers for x in (layer.keys, layer.values)]
    return sum(x.nbytes for x in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "generation"])
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "steps":
        steps(given.lengths or [128, 512, 2048, 8192], given.tokens, given.rounds, given.dtype)
    else:
        generation(given.lengths or [128, 1024, 8192], given.new, given.dtype)


if __name__ == "__main__":
    main()
