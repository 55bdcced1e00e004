"""Settings that a recipe can change to need less memory, from the least to the most disruptive, and what each costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from galore.kernels.family import WITH_MOMENTUM, WITHOUT_WHOLE
from galore.trainer.host.attach import FEWEST
from galore.trainer.recipe.change import not_inherited
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.resume import MICRO_BATCH, SCORED_TOGETHER, micro_batch_counts

Settings = dict[str, Any]
MOST_ROWS = 65_536  # of a micro-batch that are tried


@dataclass(frozen=True)
class Remedy:
    """One kind of change. `steps`: its settings, the mildest first, such as micro-batches of 4, 2 and 1."""

    cost: str
    steps: tuple[Settings, ...]


def remedies(recipe: Recipe, router: bool = False) -> list[Remedy]:
    """What could be changed in `recipe`, each once, in the order to try.

    Args:
        router: see `micro_batch_counts`.
    """
    return [found for cost in COSTS if (found := remedy(recipe, cost, router)).steps]


def remedy(recipe: Recipe, cost: str, router: bool = False) -> Remedy:
    """The one of that cost; it has no step where `recipe` has nothing of the kind to change."""
    splits = cost in (SAME_SPLIT, OTHER_SPLIT)
    if splits and micro_batch_counts(recipe, router) != (cost == OTHER_SPLIT):
        return Remedy(cost, ())
    return Remedy(cost, tuple(_STEPS[cost](recipe)))


def halved(value: int, least: int = 1) -> Iterator[int]:
    """value/2, value/4, … down to `least`."""
    while value // 2 >= least:
        value //= 2
        yield value


SAME_BATCH = 0.05  # a global batch that differs by no more than this share trains much the same


def larger_micro_batches(recipe: Recipe, processes: int = 1, router: bool = False) -> list[Settings]:
    """Micro-batches above the recipe's, ascending: divisors of its global batch, and round ones of one near it.

    Round are those of three binary digits, 4 in every doubling, such as 16, 20, 24 and 28. None is larger than the
    share of the batch that each of so many processes has; there is none where micro-batches count.
    """
    if micro_batch_counts(recipe, router):
        return []
    batch, now = recipe.train.global_batch_size, recipe.train.micro_batch_size
    steps: list[Settings] = []
    for size in range(now + 1, min(batch // processes, MOST_ROWS) + 1):
        other = max(1, round(batch / size)) * size
        if other == batch:
            steps.append(split(recipe, size))
        elif size % (1 << max(0, size.bit_length() - 3)) == 0 and abs(other - batch) <= SAME_BATCH * batch:
            steps.append({**split(recipe, size), "train.global_batch_size": other})
    return steps


def split(recipe: Recipe, size: int) -> Settings:
    """Micro-batches of that size, beside evaluations as they are: where these follow them, and it counts, by number."""
    own = recipe.eval.micro_batch_size
    follow = own is None and recipe.scored_together_counts
    scored = recipe.train.micro_batch_size if follow and size != recipe.train.micro_batch_size else own
    return {MICRO_BATCH: size, **({SCORED_TOGETHER: scored} if follow else {})}


def _segments(recipe: Recipe) -> Iterator[Settings]:
    if not recipe.train.expandable_segments:
        yield {"train.expandable_segments": True}


def _evaluation(recipe: Recipe) -> Iterator[Settings]:
    if not recipe.scored_together_counts:
        yield from ({SCORED_TOGETHER: size} for size in halved(recipe.eval.micro_batch_size or 1))


def _other_scores(recipe: Recipe) -> Iterator[Settings]:
    if recipe.scored_together_counts:
        yield from ({SCORED_TOGETHER: size} for size in halved(recipe.scored_together))


def _micro_batch(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.update == "immediate":  # nothing is accumulated
        return
    size = recipe.train.micro_batch_size
    fitting = (each for each in range(size - 1, 0, -1) if recipe.train.global_batch_size % each == 0)
    yield from (split(recipe, each) for each in fitting)


def _checkpointing(recipe: Recipe) -> Iterator[Settings]:
    """Checkpointing of a few blocks first, where the recipe says how many there are."""
    now = recipe.train.gradient_checkpointing
    if now is not True:
        yield from ({"train.gradient_checkpointing": blocks} for blocks in some_blocks(recipe) if blocks > now)
        yield {"train.gradient_checkpointing": True}


def some_blocks(recipe: Recipe) -> list[int]:
    """Eighths of the recipe's blocks, the smallest first, without all; none where a file says their number."""
    count = recipe.model.blocks
    if count is None:
        return []
    return sorted({-(-count * eighths // 8) for eighths in range(1, 8)} - {count})


def _offloading(recipe: Recipe) -> Iterator[Settings]:
    """Upon blocks that are recomputed."""
    if recipe.train.gradient_checkpointing and not recipe.train.offload_activations:
        yield {"train.offload_activations": True}


def can_tile(recipe: Recipe) -> bool:
    """Whether a micro-batch has more than one tile; a model whose file says its width is tried."""
    width = recipe.model.width
    return width is None or recipe.train.micro_batch_size * recipe.data.max_length > width


def _tiling(recipe: Recipe) -> Iterator[Settings]:
    if can_tile(recipe) and recipe.train.tile_tokens is None:
        yield {"train.tile_tokens": "auto"}


def _host_sums(recipe: Recipe) -> Iterator[Settings]:
    """Sums on the host, where a method sums the gradients of target matrices whole."""
    optim = recipe.optim
    sums = optim.update == "accumulate" and (optim.method == "full" or optim.residual not in WITHOUT_WHOLE)
    if sums and optim.gradient_sums == "device":
        yield {"optim.gradient_sums": "host"}


def can_stream(recipe: Recipe) -> bool:
    """Whether there are blocks enough to stream; a model whose file says their number is tried."""
    blocks = recipe.model.blocks
    return (blocks is None or blocks > FEWEST) and recipe.optim.adapter != "factors"


def _streaming(recipe: Recipe) -> Iterator[Settings]:
    if can_stream(recipe) and not recipe.train.stream_weights:
        yield {"train.stream_weights": True}


def _backward(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and recipe.optim.projection == "hook":
        yield {"optim.projection": "backward"}


def _stagger(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and not recipe.optim.stagger and recipe.optim.convention == "paper":
        yield {"optim.stagger": True}


def _randomized(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and recipe.optim.proj_type == "svd" and recipe.optim.convention == "paper":
        refresh = "first-micro-batch" if recipe.optim.update == "immediate" else None
        yield {"optim.proj_type": "randomized", "optim.refresh": refresh}


def _accumulators(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.accumulator_dtype == "float32":
        yield {"optim.accumulator_dtype": "bfloat16"}


def _states(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.state_dtype == "float32":
        yield {"optim.state_dtype": "8bit"}
    if recipe.optim.state_dtype != "4bit" and recipe.optim.inner in WITH_MOMENTUM:
        yield {"optim.state_dtype": "4bit"}


def _projectors(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and recipe.optim.projector_dtype not in ("int8", "int4"):
        yield from ({"optim.projector_dtype": dtype} for dtype in ("int8", "int4"))


def _weights(recipe: Recipe) -> Iterator[Settings]:
    if recipe.model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}


def _codes(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and recipe.optim.weight_dtype is None:
        yield {"optim.weight_dtype": "int8"}


def _galore(recipe: Recipe) -> Iterator[Settings]:
    """A subspace for the recipe's own rule, where that works in one, as NorMuon does with all of its momentum."""
    if recipe.optim.method != "full":
        return
    if recipe.optim.inner == "normuon":
        yield {"optim.method": "galore", "optim.residual": "joint-4bit"}
    plain = {"method": "galore"}
    other = not_inherited(recipe, plain) if recipe.optim.inner in ("normuon", "scale", "scale-momentum") else {}
    yield {"optim.method": "galore", **other}


def _rank(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method != "full":
        least = 4 if recipe.optim.method == "lora" else 64
        rank = recipe.optim.rank
        smaller = halved(rank, least) if isinstance(rank, int) else [rank / 2, rank / 4]
        yield from ({"optim.rank": each} for each in smaller)


def _immediate(recipe: Recipe) -> Iterator[Settings]:
    if recipe.optim.method == "galore" and recipe.optim.update == "accumulate":
        sums = {"optim.gradient_sums": "device"} if recipe.optim.gradient_sums == "host" else {}  # there are none
        yield sums | {
            "optim.update": "immediate",
            "optim.refresh": "first-micro-batch",
            "optim.max_grad_norm": None,
            "train.global_batch_size": recipe.train.micro_batch_size,
        }


def _length(recipe: Recipe) -> Iterator[Settings]:
    yield from ({"data.max_length": length} for length in halved(recipe.data.max_length, 128))


SAME_SPLIT = "same results; smaller products use the card less well"
OTHER_SPLIT = "another split into micro-batches, which is part of what this recipe computes"
_STEPS: dict[str, Callable[[Recipe], Iterator[Settings]]] = {
    "nothing": _segments,
    "slower evaluations": _evaluation,
    SAME_SPLIT: _micro_batch,
    "same results; one more forward: up to a third more time": _checkpointing,
    "same results; host memory, and the bus in use both ways": _offloading,
    "same results up to rounding; feed-forward networks computed once more, but in recomputed blocks": _tiling,
    "same results; sums of whole gradients in host memory, and over the bus in every micro-batch": _host_sums,
    "same results; all weights in host memory, and twice over the bus in every micro-batch": _streaming,
    "same results up to rounding": _backward,
    "other held-out losses: eval.mode: paper takes the mean of batch means": _other_scores,
    OTHER_SPLIT: _micro_batch,
    "layers refresh in turns instead of together": _stagger,
    "another estimate of the same subspace": _randomized,
    "gradient sums are rounded to 8 bits of mantissa": _accumulators,
    "Adam's moments in 8 bits; 8-bit Adam is close to Adam in practice": _states,
    "projectors in 8 or 4 bits, as Q-GaLore has them": _projectors,
    "half the bits of every weight, rounded stochastically": _weights,
    "target matrices in 8 bits, rounded stochastically, as Q-GaLore has them": _codes,
    "a smaller subspace: choose the learning rate anew": _rank,
    "low-rank projection instead of full rank: choose the learning rate anew": _galore,
    "shorter sequences: another training problem": _length,
    "no accumulation and no clipping: batches of one micro-batch": _immediate,
}
COSTS = tuple(_STEPS)
SAME_RESULTS = tuple(
    cost for cost in COSTS if cost in ("nothing", "slower evaluations") or cost.startswith("same results")
)
