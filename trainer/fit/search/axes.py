"""What may be chosen of a recipe's execution, so that its steps are shorter and its results as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from galore.trainer.fit.remedies import Settings, can_stream, can_tile, split
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import MICRO_BATCH, micro_batch_counts

CLOSEST = 1.4  # times the micro-batch before: nearer ones are left out, but for the recipe's own
MOST_ROWS = 4096  # of a micro-batch that are tried


def micro_batches(recipe: Recipe) -> list[int]:
    """Divisors of the global batch, ascending; the recipe's alone where another would change what is computed."""
    train, now = recipe.train, recipe.train.micro_batch_size
    if micro_batch_counts(recipe):
        return [now]
    found: list[int] = []
    for size in range(1, min(train.global_batch_size, MOST_ROWS) + 1):
        if train.global_batch_size % size == 0 and (size == now or not found or size >= CLOSEST * found[-1]):
            found.append(size)
    return found


def _micro_batch(recipe: Recipe, kind: str) -> Iterator[Settings]:
    yield from (split(recipe, size) for size in micro_batches(recipe))


def _offloading(recipe: Recipe, kind: str) -> Iterator[Settings]:
    """Whether inputs of blocks may wait elsewhere. On the CPU the switch does nothing, and needs recomputed blocks."""
    if kind == "cuda":
        yield from ({"train.offload_activations": wanted} for wanted in (False, True))
    elif recipe.train.offload_activations:
        yield {"train.offload_activations": False}


def _streaming(recipe: Recipe, kind: str) -> Iterator[Settings]:
    """Whether blocks may wait elsewhere: on the CPU they wait in the same memory."""
    if kind == "cuda" and can_stream(recipe):
        yield {"train.stream_weights": False}
        yield {"train.stream_weights": recipe.train.stream_weights or True}
    elif kind == "cpu" and recipe.train.stream_weights:
        yield {"train.stream_weights": False}


def _tiling(recipe: Recipe, kind: str) -> Iterator[Settings]:
    """Tiles of tokens, where a micro-batch has more than one of them: `auto` has as many as the model is wide."""
    yield {"train.tile_tokens": None}
    if recipe.train.tile_tokens is not None or can_tile(recipe):
        yield {"train.tile_tokens": recipe.train.tile_tokens or "auto"}


class Axis(NamedTuple):
    """One thing to choose. `steps`: of a recipe on a device of a kind, from what should take least time to what needs
    least memory. `on_host`: what it spares waits on the host, so that it is known how much at most; another spares some
    of what one block makes on its way."""

    steps: Callable[[Recipe, str], Iterator[Settings]]
    on_host: bool


ROWS = Axis(_micro_batch, on_host=False)
# beside the micro-batch and the number of recomputed blocks
AXES: dict[str, Axis] = {
    "inputs of recomputed blocks on the host": Axis(_offloading, on_host=True),
    "weights on the host": Axis(_streaming, on_host=True),
    "tiles of tokens": Axis(_tiling, on_host=False),
}

# What rounds otherwise on a card: as the recipe has it where it is left open, and what is told beside the fastest.
ROUNDED: dict[str, tuple[object, str]] = {"train.fused": (False, "auto"), "train.matmul": ("bf16", "auto")}


class Combination(NamedTuple):
    """A choice on every axis. What sets it apart from the fastest of that micro-batch spares memory on the host
    (`on_host`), or some of what a block makes on its way (`in_block`)."""

    settings: Settings
    on_host: bool
    in_block: bool


def combinations(recipe: Recipe, kind: str) -> list[list[Combination]]:
    """Choices on the other axes for each micro-batch, ascending: what should take least time first.

    Args:
        kind: of the device, "cuda" or "cpu".
    """
    found = []
    for row in ROWS.steps(recipe, kind):
        train = recipe.train.model_copy(update={"micro_batch_size": row[MICRO_BATCH]})
        other = recipe.model_copy(update={"train": train})
        axes = [(axis, steps) for axis in AXES.values() if (steps := list(axis.steps(other, kind)))]
        choices = []
        for chosen in product(*(steps for _, steps in axes)):
            spared = [axis.on_host for (axis, all_of), step in zip(axes, chosen, strict=True) if step != all_of[0]]
            settings = {**row, **{key: value for step in chosen for key, value in step.items()}}
            choices.append(Combination(settings, any(spared), not all(spared)))
        found.append(choices)
    return found
