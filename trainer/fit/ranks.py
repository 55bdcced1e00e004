"""A recipe on several processes: what one of them holds, what it sends in a step, and how long a link takes for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from galore.trainer.build import build_model
from galore.trainer.common.errors import UserError
from galore.trainer.losses.build import build_extra
from galore.trainer.losses.extra import About
from galore.trainer.optimizer import attach_optimizer
from galore.trainer.parallel.traffic import LINKS, seconds, traffic
from galore.trainer.parameters import planned_vocabulary
from galore.trainer.recipe.change import changed
from galore.trainer.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class Sent:
    """Bytes that each of `size` processes gives into the collectives of a step.

    Attributes:
        ordinary: by kind, of a step that finds no subspace. `most`: of the step that sends most, the first left out.
        gradients: what the whole gradients would be, in the dtype that sums are kept in.
    """

    size: int
    ordinary: dict[str, int]
    most: dict[str, int]
    gradients: int

    @property
    def seconds(self) -> dict[str, float]:
        """Link → time of an ordinary step's sums, predicted, at the link's nominal rate."""
        return {link: seconds(sum(self.ordinary.values()), self.size, rate) for link, rate in LINKS.items()}

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "predicted_seconds": self.seconds}


def of_one_rank(loaded: LoadedRecipe, size: int) -> LoadedRecipe:
    """The recipe of one process that trains alone on the largest share of the batch: memory is that of a rank.

    Raises:
        UserError: there are fewer sequences than processes.
    """
    train = loaded.recipe.train
    if train.global_batch_size < size:
        what = f"{train.global_batch_size} sequences cannot be shared by {size} processes"
        raise UserError(what, where="train.global_batch_size", fix="name fewer, or raise it")
    rows = -(-train.global_batch_size // size)
    micro = min(train.micro_batch_size, rows)
    shares = {"train.micro_batch_size": micro, "train.global_batch_size": -(-rows // micro) * micro}
    return changed(loaded, shares) or loaded


def sent_by(loaded: LoadedRecipe, size: int) -> Sent:
    """What a recipe's processes send. Nothing is allocated, and no data is read.

    Raises:
        UserError: the model or the parameter groups cannot be built.
    """
    recipe = loaded.recipe
    model, _ = build_model(recipe, planned_vocabulary(loaded)[0], "meta", loaded.base_dir)
    build_extra(About(recipe, model, "meta", loaded.base_dir, 1))
    optimizer = attach_optimizer(model, recipe, recipe.train.accumulation)
    turns = {slot.schedule.offset + slot.schedule.gap for slot in optimizer.projected}
    ordinary = traffic(optimizer)
    most = max((traffic(optimizer, clock) for clock in turns), key=Counter.total, default=ordinary)
    gradients = sum(slot.parameter.numel() * slot.sum.dtype.itemsize for slot in optimizer.slots.values())
    return Sent(size, dict(ordinary), dict(most), gradients)
