"""A recipe on several processes: what one of them holds, what it sends in a step, and how long a link takes for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace

from torch import nn

from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.fit.hostmemory import HostProfile, host_profile
from galore.trainer.fit.parted import in_parts, units_of
from galore.trainer.fit.predict import profile_on
from galore.trainer.host.attach import outermost_blocks
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About
from galore.trainer.machine.cards import Card
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Trace
from galore.trainer.optim import GaLoreAdamW
from galore.trainer.optimizer import attach_optimizer, refuse_uneven
from galore.trainer.parallel.group import Group, refuse_in_group
from galore.trainer.parallel.partedtraffic import parted_traffic, units
from galore.trainer.parallel.partedtraffic import seconds as parted_seconds
from galore.trainer.parallel.traffic import LINKS, seconds, traffic
from galore.trainer.parameters import planned_vocabulary
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Sent:
    """Bytes that each of `size` processes gives into the collectives of a step, by the way they share it: `mode`.

    Attributes:
        ordinary: by kind, of a step that finds no subspace. `most`: of the step that sends most, the first left out.
        gradients: what the whole gradients would be, in the dtype that sums are kept in.
    """

    size: int
    ordinary: dict[str, int]
    most: dict[str, int]
    gradients: int
    mode: str = "ddp"

    @property
    def seconds(self) -> dict[str, float]:
        """Link → time of an ordinary step's collectives, predicted, at the link's nominal rate."""
        if self.mode == "fsdp":
            return {link: parted_seconds(Counter(self.ordinary), self.size, rate) for link, rate in LINKS.items()}
        return {link: seconds(sum(self.ordinary.values()), self.size, rate) for link, rate in LINKS.items()}

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "predicted_seconds": self.seconds}


def of_one_rank(loaded: LoadedRecipe, size: int) -> LoadedRecipe:
    """The recipe of one of `size` processes, alone with the largest share of the batch: memory is that of a rank.

    Raises:
        UserError: there are fewer sequences than processes.
    """
    if size == 1:
        return loaded
    train = loaded.recipe.train
    if train.global_batch_size < size:
        what = f"{train.global_batch_size} sequences cannot be shared by {size} processes"
        raise UserError(what, where="train.global_batch_size", fix="name fewer, or raise it")
    rows = -(-train.global_batch_size // size)
    micro = min(train.micro_batch_size, rows)
    shares = {"train.micro_batch_size": micro, "train.global_batch_size": -(-rows // micro) * micro}
    return changed(loaded, shares) or loaded


def profile_of_one(loaded: LoadedRecipe, card: Card, size: int, brief: bool = False) -> Profile:
    """What the run needs on `card`; of `size` processes what one of them does, with its share of the batch.

    Raises:
        UserError: the model cannot be built or traced, or processes cannot share it.
    """
    if size > 1:
        refuse_in_group(loaded.recipe, Group(0, size))
    one = of_one_rank(loaded, size)
    if size > 1 and loaded.recipe.parallel.mode == "fsdp":
        return profile_of_part(one, card, size, brief)
    return profile_on(one, card, brief=brief, ranks=size)


def host_of_all(loaded: LoadedRecipe, size: int) -> HostProfile:
    """What `size` processes need of the machine that they share.

    Raises:
        UserError: the model cannot be built, or processes cannot share the batch.
    """
    return host_profile(of_one_rank(loaded, size), "cuda", processes=size)


def profile_of_part(loaded: LoadedRecipe, card: Card, size: int, brief: bool = False) -> Profile:
    """What one of `size` processes needs on `card`, with its share of the batch and its part of weights and states.

    Raises:
        UserError: the model cannot be built or traced.
    """
    whole = profile_on(loaded, card, brief=brief)
    return replace(whole, trace=trace_of_part(loaded, whole.trace, size))


def trace_of_part(loaded: LoadedRecipe, trace: Trace, size: int) -> Trace:
    """`trace` of a process that has all of `loaded`, as it is on one of `size` that share weights and states."""
    model, optimizer = _planned(loaded)
    refuse_uneven(model, optimizer, size)
    gathered = units(model, outermost_blocks(model), optimizer)
    return in_parts(trace, size, units_of(model, optimizer, gathered, size))


def _planned(loaded: LoadedRecipe) -> tuple[nn.Module, GaLoreAdamW]:
    recipe = loaded.recipe
    model, _ = build_model(recipe, planned_vocabulary(loaded)[0], "meta", loaded.base_dir)
    build_extra(About(recipe, model, "meta", loaded.base_dir, 1))
    return model, attach_optimizer(model, recipe, recipe.train.accumulation)


def sent_by(loaded: LoadedRecipe, size: int, mode: str = "ddp") -> Sent:
    """What a recipe's processes send. Nothing is allocated, and no data is read.

    Raises:
        UserError: the model or the parameter groups cannot be built.
    """
    model, optimizer = _planned(loaded)
    train = loaded.recipe.train
    gathered = units(model, outermost_blocks(model), optimizer)
    micro_batches = -(-(train.global_batch_size // size) // train.micro_batch_size)

    def of(clock: int | None) -> Counter[str]:
        if mode == "fsdp":
            return parted_traffic(optimizer, gathered, size, micro_batches, clock)
        return traffic(optimizer, clock)

    turns = {slot.schedule.offset + slot.schedule.gap for slot in optimizer.projected}
    ordinary = of(None)
    most = max(map(of, turns), key=Counter.total, default=ordinary)
    gradients = sum(slot.parameter.numel() * slot.sum.dtype.itemsize for slot in optimizer.slots.values())
    return Sent(size, dict(ordinary), dict(most), gradients, mode)
