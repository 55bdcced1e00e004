"""A recipe's steps traced without the device: the project's own train step on `meta` tensors, all blocks or few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self

from galore.kernels.cuda import as_deterministic, workspaces
from galore.kernels.device import meta_stands_for
from galore.trainer.fit.rehearsal import Rehearsal
from galore.trainer.host.attach import FEWEST
from galore.trainer.machine.cards import Card
from galore.trainer.machine.process import expandable_segments
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.simulate import SimulatedTracer, device_operations
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.workspaces.casts import cpu_workspaces
from galore.trainer.memory.workspaces.workspaces import cuda_workspaces, library_workspaces
from galore.trainer.optim.ranks import Rehearsed
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.recipe import Recipe

AGAIN = "train.gradient_checkpointing"
MICRO_BATCHES = 3  # of a step that are traced: only the third begins with sums as wide as those that follow it


def predict(loaded: LoadedRecipe, card: Card | None, *, brief: bool = False, ranks: int = 1) -> Trace:
    """Every storage of a recipe's first, ordinary and refresh step, and of an evaluation, on `card`; None is the CPU.

    Args:
        brief: leave out the ordinary step where there is a refresh, which needs all that it needs.
        ranks: processes that sum over their gradients; `loaded` is one's own share.

    Raises:
        UserError: the model cannot be built, or one of its operations cannot be traced.
    """
    # whatever goes wrong with a few blocks, all of them tell
    with suppress(Exception), _rehearsal(loaded, card, ranks) as rehearsal:
        return rehearsal.run_few(brief)
    with _rehearsal(loaded, card, ranks) as rehearsal:
        rehearsal.run(brief)
    return rehearsal.tracer.trace


@contextmanager
def _rehearsal(loaded: LoadedRecipe, card: Card | None, ranks: int) -> Iterator[Rehearsal]:
    """A recipe's steps on `meta` tensors, ready to be carried out while `meta` stands for `card`."""
    kind, deterministic = "cpu" if card is None else "cuda", loaded.recipe.train.deterministic
    others = Rehearsed(ranks) if ranks > 1 else None
    tracer = _tracer(card, deterministic)
    with (
        meta_stands_for(kind, tracer.launched),
        device_operations(kind, card.capability if card else (0, 0)),
        as_deterministic(deterministic and card is not None),
    ):
        yield Rehearsal.prepare(loaded, "meta", tracer, MICRO_BATCHES, others)


def _tracer(card: Card | None, deterministic: bool) -> SimulatedTracer:
    if card is None:
        return SimulatedTracer(cpu_workspaces)

    def hidden(
        func: object, args: tuple[object, ...], kwargs: dict[str, object], out: object
    ) -> Sequence[tuple[int, int]]:
        return cuda_workspaces(func, args, kwargs, out, card.capability, card.sms)

    return SimulatedTracer(hidden, library=library_workspaces(card.capability, workspaces(deterministic)))


def profile_on(loaded: LoadedRecipe, card: Card, *, brief: bool = False, ranks: int = 1) -> Profile:
    """What `loaded` needs on `card`, with the allocator set as the recipe and the environment say; see `predict`.

    Raises:
        UserError: the model cannot be built or traced.
    """
    return Profile(
        predict(loaded, card, brief=brief, ranks=ranks),
        card,
        expandable_segments(loaded.recipe.train.expandable_segments),
    )


class Sample(NamedTuple):
    """A model's blocks, and how many of them are computed again in the backward."""

    blocks: int
    again: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"model.num_hidden_layers": self.blocks, AGAIN: self.recomputing}

    @property
    def recomputing(self) -> bool | int:
        """The value of gradient_checkpointing that says so."""
        return self.again == self.blocks if self.again in (0, self.blocks) else self.again


class Sampled(NamedTuple):
    """All `blocks` of a model from samples with `fewer` and one more, with `base` recomputed ones and one more.

    Blocks are alike, so that seconds and bytes of every part of a step grow evenly with their number.
    """

    blocks: int
    fewer: int
    base: int

    @classmethod
    def of(cls, recipe: Recipe, again: int | None = None) -> Self | None:
        """Samples of a recipe, for `again` recomputed blocks or any; None where it has hardly more, or none of its own.

        Where blocks wait elsewhere, at least as many wait as are there: of fewer, the pass before leaves another share.
        """
        blocks, streams = recipe.model.num_hidden_layers, recipe.train.stream_weights
        fewer = FEWEST if streams is False else 2 * (FEWEST if streams is True else streams)
        if not recipe.model.has_own_dimensions or blocks <= fewer + 1:
            return None
        return cls(blocks, fewer, 1 if again is None else min(again, fewer))

    @property
    def samples(self) -> tuple[Sample, Sample, Sample]:
        more = self.fewer + 1
        return Sample(self.fewer, self.base), Sample(more, self.base), Sample(more, self.base + 1)

    def times(self, again: int) -> dict[Sample, float]:
        """How often each sample is in the whole with so many recomputed blocks, those left out that are not."""
        more = again - self.base
        plain = self.blocks - self.fewer - more
        counted = zip(self.samples, (1 - plain - more, plain, more), strict=True)
        return {sample: times for sample, times in counted if times}
