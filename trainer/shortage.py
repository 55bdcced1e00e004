"""When memory runs out in a step: what was in it, what is saved, and what to change so that the run goes on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Self

import psutil
import torch

from galore.trainer.build import Run
from galore.trainer.common.errors import Ended, UserError
from galore.trainer.common.format import GIB, size
from galore.trainer.fit.advice import Adviser
from galore.trainer.fit.forecast import card_of, recipe_of
from galore.trainer.fit.remedies import Settings, split
from galore.trainer.machine.cards import Card
from galore.trainer.memory.categories import spoken
from galore.trainer.memory.live import MemoryUse, by_category, current_and_peak
from galore.trainer.parallel.group import Group
from galore.trainer.recipe.change import changed, spelled
from galore.trainer.recipe.load import LoadedRecipe
from galore.trainer.recipe.schema.resume import MICRO_BATCH, changed_mathematics, micro_batch_counts

CPU_ALLOCATOR = "DefaultCPUAllocator"  # begins what torch says when the CPU's memory is at its end; it has no own type


@dataclass(frozen=True)
class Shortage:
    """What was held, in bytes by category and in all, when `reason` came."""

    reason: str
    held: dict[str, int]
    use: MemoryUse

    @classmethod
    def of(cls, run: Run, error: RuntimeError) -> Self:
        """What `run` holds as torch says that there is no more; nothing of the error is kept but its first sentence."""
        reason = str(error).partition(". ")[0]
        return cls(reason, by_category(run.model, run.optimizer), current_and_peak(run.device))

    def __str__(self) -> str:
        parts = [f"{spoken(name)} {size(nbytes)}" for name, nbytes in self.held.items() if nbytes]
        return f"{size(self.use.current)} in use, {size(self.use.reserved)} reserved: {', '.join(parts)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory, on a GPU or on the CPU; a compiler wraps what it met."""
    error = getattr(error, "inner_exception", None) or error
    return isinstance(error, torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


def make_room(run: Run) -> None:
    """Forget the step that had no room."""
    run.optimizer.zero_grad()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def gave_out(run: Run, step: int, shortage: Shortage, saved: str) -> Ended:
    """The error that ends the run: the breakdown, what became of the state, and the settings that would fit."""
    return Ended(
        f"memory ran out in step {step + 1}: {shortage.reason}\n  {shortage}\n  {saved}",
        where=str(run.directory.root),
        fix=_remedy(run),
    )


def _remedy(run: Run) -> str:
    folder = shlex.quote(str(run.directory.root))
    card = card_of(run)
    if card is None and micro_batch_counts(run.recipe, run.router is not None):
        return f"see: galore profile-memory {folder}/recipe.yaml --advise, and start anew with what it says"
    if card is None:
        kept = spelled({each: value for each, value in split(run.recipe, 0).items() if each != MICRO_BATCH})
        beside = f" with {kept[0]}" if kept else ""
        return f"lower train.micro_batch_size and resume{beside}, or see: galore profile-memory {folder}/recipe.yaml --advise"
    run.console.message("looking for settings that fit")
    loaded = recipe_of(run)
    router = run.router is not None
    settings = _settings_that_fit(loaded, card, run.group, router)
    fitting = changed(loaded, settings)
    words = " ".join(spelled(settings))
    if not settings or fitting is None:
        return f"no change of settings is known to fit; see: galore profile-memory {folder}/recipe.yaml --advise"
    if changed_mathematics(loaded.recipe, fitting.recipe, router):
        return f"start anew with {words}: no milder change fits this card"
    return run.directory.go_on(*spelled(settings))


def _settings_that_fit(loaded: LoadedRecipe, card: Card, group: Group | None, router: bool) -> Settings:
    """The mildest changes that make it fit, on each process of a group; none where none is known.

    What they leave to the host, this machine is to hold; processes of a group may be on several.
    """
    ram = psutil.virtual_memory().total / GIB if group is None else None
    processes = 1 if group is None else group.size
    try:
        return Adviser(loaded, card, processes=processes, router=router, ram=ram).advise().settings
    except UserError:
        return {}
