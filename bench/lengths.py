"""Rows of one document or example each, put together by length and as they come: the tokens that are fed, and seconds.

    python bench/lengths.py RECIPE [SETTINGS ...] [--steps 3] [--threads 1]

The share of tokens is of an epoch, for several sizes of a micro-batch. Seconds are those of the processor, of the same
steps of two models of the same weights, one after the other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from galore.trainer.machine.process import prepare_process

MICRO = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    prepare_process()
    import torch

    from galore.trainer.data.prepare import prepare_data
    from galore.trainer.recipe.load import load_recipe

    torch.set_num_threads(asked.threads)
    recipe = load_recipe(asked.recipe, ["train.device=cpu", "data.packing=paper", *asked.settings]).recipe
    data = prepare_data(recipe, Path())
    _shares(data, recipe)
    for by_length in (False, True):
        _steps(data, recipe, asked.steps, by_length)


def _shares(data: Any, recipe: Any) -> None:
    """How many tokens of an epoch are fed, of those that are when rows are as long as the longest of their step."""
    from galore.trainer.step import micro_batches

    size = recipe.train.global_batch_size
    steps = [data.global_batch(step) for step in range(data.num_sequences // size)]
    whole, targets = sum(each.tokens for each in steps), sum(each.targets for each in steps)
    print(f"{len(steps)} steps of {size} rows: {whole:,} tokens, {targets:,} targets")
    for micro in (each for each in MICRO if each <= size):
        fed = sum(part.tokens for each in steps for part in micro_batches(each, micro, by_length=True))
        print(f"  micro-batches of {micro}: {fed:,} tokens, {fed / whole:.3f}; targets among them {targets / fed:.3f}")


def _steps(data: Any, recipe: Any, steps: int, by_length: bool) -> None:
    from galore.trainer.build import build_model
    from galore.trainer.optimizer import attach_optimizer
    from galore.trainer.step import train_step

    model, _ = build_model(recipe, data.vocab_size, "cpu", Path())
    optimizer = attach_optimizer(model, recipe, recipe.train.accumulation)
    print("by length" if by_length else "as they come")
    for step in range(steps):
        started = time.process_time()
        batch, micro = data.global_batch(step), recipe.train.micro_batch_size
        found = train_step(model, optimizer, batch, micro, 1.0, by_length=by_length)
        print(
            f"  {time.process_time() - started:6.2f} s, {found.tokens:,} tokens, loss {found.loss_nats:.6f}", flush=True
        )


if __name__ == "__main__":
    main()
