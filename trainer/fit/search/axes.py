"""What may be chosen of a recipe's execution, so that its steps are shorter and its results as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from galore.trainer.fit.remedies import Settings
from galore.trainer.host.attach import FEWEST
from galore.trainer.recipe.schema.recipe import Recipe

CLOSEST = 1.4  # times the micro-batch before: nearer ones are left out, but for the recipe's own
MOST_ROWS = 4096  # of a micro-batch that are tried


def micro_batches(recipe: Recipe) -> list[int]:
    """Divisors of the global batch, ascending; the recipe's alone where another would change what is computed."""
    train, now = recipe.train, recipe.train.micro_batch_size
    if recipe.optim.update == "immediate" or recipe.optim.effective_refresh == "first-micro-batch":
        return [now]
    found: list[int] = []
    for size in range(1, min(train.global_batch_size, MOST_ROWS) + 1):
        if train.global_batch_size % size == 0 and (size == now or not found or size >= CLOSEST * found[-1]):
            found.append(size)
    return found


def _micro_batch(recipe: Recipe, kind: str) -> Iterator[Settings]:
    yield from ({"train.micro_batch_size": size} for size in micro_batches(recipe))


def _offloading(recipe: Recipe, kind: str) -> Iterator[Settings]:
    """Whether inputs of blocks may wait elsewhere: on the CPU the switch does nothing."""
    if kind == "cuda":
        yield from ({"train.offload_activations": wanted} for wanted in (False, True))


def _streaming(recipe: Recipe, kind: str) -> Iterator[Settings]:
    """Whether blocks may wait elsewhere: on the CPU they wait in the same memory."""
    known = recipe.model.published
    several = (recipe.model.num_hidden_layers if known is None else known.layers) > FEWEST
    if kind == "cuda" and several and recipe.optim.adapter != "factors":
        yield {"train.stream_weights": False}
        yield {"train.stream_weights": recipe.train.stream_weights or True}


class Axis(NamedTuple):
    """One thing to choose. `steps`: of a recipe on a device of a kind, from what should take least time to what needs
    least memory. `on_host`: what it spares waits on the host, so that it is known how much at most."""

    steps: Callable[[Recipe, str], Iterator[Settings]]
    on_host: bool


MICRO_BATCH = Axis(_micro_batch, on_host=False)
# beside the micro-batch and the number of recomputed blocks
AXES: dict[str, Axis] = {
    "inputs of recomputed blocks on the host": Axis(_offloading, on_host=True),
    "weights on the host": Axis(_streaming, on_host=True),
}


class Combination(NamedTuple):
    """A choice on every axis. `on_host`: what waits on the host sets it apart from the fastest of that micro-batch."""

    settings: Settings
    on_host: bool


def combinations(recipe: Recipe, kind: str) -> list[list[Combination]]:
    """Choices on the other axes for each micro-batch, ascending: what should take least time first.

    Args:
        kind: of the device, "cuda" or "cpu".
    """
    axes = [(axis, steps) for axis in AXES.values() if (steps := list(axis.steps(recipe, kind)))]
    found = []
    for row in MICRO_BATCH.steps(recipe, kind):
        choices = []
        for chosen in product(*(steps for _, steps in axes)):
            elsewhere = [axis.on_host for (axis, all_of), step in zip(axes, chosen, strict=True) if step != all_of[0]]
            choices.append(Combination({**row, **{k: v for step in chosen for k, v in step.items()}}, all(elsewhere)))
        found.append(choices)
    return found
