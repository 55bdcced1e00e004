"""A recipe's steps traced without the device: the project's own train step on `meta` tensors."""

from __future__ import annotations

from collections.abc import Sequence

from galore.kernels.cuda import as_deterministic, workspaces
from galore.kernels.device import meta_stands_for
from galore.trainer.fit.rehearsal import Rehearsal
from galore.trainer.machine.cards import Card
from galore.trainer.machine.process import expandable_segments
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.simulate import SimulatedTracer, device_operations
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.memory.workspaces.casts import cpu_workspaces
from galore.trainer.memory.workspaces.workspaces import cuda_workspaces, library_workspaces
from galore.trainer.optim.ranks import Rehearsed
from galore.trainer.recipe.load import LoadedRecipe

MICRO_BATCHES = 3  # of a step that are traced: only the third begins with sums as wide as those that follow it


def predict(loaded: LoadedRecipe, card: Card | None, *, brief: bool = False, ranks: int = 1) -> Trace:
    """Every storage of a recipe's first, ordinary and refresh step, and of an evaluation, on `card`; None is the CPU.

    Args:
        brief: leave out the ordinary step where there is a refresh, which needs all that it needs.
        ranks: processes that sum over their gradients; `loaded` is one's own share.

    Raises:
        UserError: the model cannot be built, or one of its operations cannot be traced.
    """
    kind, deterministic = "cpu" if card is None else "cuda", loaded.recipe.train.deterministic
    others = Rehearsed(ranks) if ranks > 1 else None
    tracer = _tracer(card, deterministic)
    with (
        meta_stands_for(kind, tracer.launched, tracer.repeat),
        device_operations(kind, card.capability if card else (0, 0)),
        as_deterministic(deterministic and card is not None),
    ):
        rehearsal = Rehearsal.prepare(loaded, "meta", tracer, MICRO_BATCHES, others)
        rehearsal.run(brief)
    return tracer.trace


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
