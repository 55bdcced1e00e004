"""Which runs a comparison consists of: methods × learning rates × seeds, each a recipe with some settings changed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import shortened
from galore.trainer.common.suggest import nearest
from galore.trainer.recipe.change import not_inherited, spelled
from galore.trainer.recipe.schema.optim import OptimSection

METHODS: dict[str, tuple[str, ...]] = {
    "full": ("optim.method=full",),
    "full-8bit": ("optim.method=full", "optim.state_dtype=8bit"),
    "adafactor": ("optim.method=full", "optim.inner=adafactor"),
    "muon": ("optim.method=full", "optim.inner=muon"),
    "galore": ("optim.method=galore",),
    "galore-8bit": ("optim.method=galore", "optim.state_dtype=8bit"),
    "galore-keep": ("optim.method=galore", "optim.transport=keep"),
    "galore-svd": ("optim.method=galore", "optim.proj_type=svd", "optim.transport=keep"),
    "ldadam": ("optim.method=galore", "optim.transport=rotate"),
    "fira": ("optim.method=galore", "optim.residual=fira", "optim.transport=keep"),
    "fira-rotate": ("optim.method=galore", "optim.residual=fira", "optim.transport=rotate"),
    "apollo": ("optim.method=galore", "optim.residual=apollo", "optim.proj_type=random"),
    "apollo-mini": ("optim.method=galore", "optim.residual=apollo-mini", "optim.proj_type=random", "optim.rank=1"),
    "q-galore": (
        "optim.method=galore",
        "optim.state_dtype=8bit",
        "optim.projector_dtype=int4",
        "optim.refresh_overlap=0.4",
        "optim.transport=keep",
    ),
    "dct": ("optim.method=galore", "optim.proj_type=dct", "optim.transport=rotate"),
    "sumo": ("optim.method=galore", "optim.inner=sumo", "optim.transport=rotate"),
    "galore-muon": ("optim.method=galore", "optim.inner=muon", "optim.transport=rotate"),
    "galore-adafactor": ("optim.method=galore", "optim.inner=adafactor", "optim.transport=rotate"),
    "frugal": ("optim.method=galore", "optim.residual=frugal", "optim.transport=reset"),
    "frugal-rotate": ("optim.method=galore", "optim.residual=frugal", "optim.transport=rotate"),
    "lora": ("optim.method=lora",),
    "relora": ("optim.method=lora", "optim.adapter=relora"),
    "low-rank": ("optim.method=lora", "optim.adapter=factors", "optim.lora_dropout=0"),
}


@dataclass(frozen=True)
class Cell:
    """One run: `method` as the user wrote it, such as `galore:optim.rank=32`, and the overrides that make it."""

    method: str
    learning_rate: float | None
    seed: int | None

    def overrides(self, optim: OptimSection) -> list[str]:
        """Settings on top of those of a recipe with that `optim`, as on the command line."""
        name, *own = self.method.split(":")
        chosen = [*settings_of(name, optim), *own]
        chosen += [] if self.learning_rate is None else [f"optim.learning_rate={self.learning_rate!r}"]
        return chosen + ([] if self.seed is None else [f"train.seed={self.seed}"])

    @property
    def folder(self) -> str:
        """Where the run is kept, inside the comparison's own folder."""
        parts = [re.sub(r"[^A-Za-z0-9.-]+", "_", self.method)]
        parts += [] if self.learning_rate is None else [f"lr{self.learning_rate:g}"]
        return "-".join(parts + ([] if self.seed is None else [f"seed{self.seed}"]))


def settings_of(method: str, optim: OptimSection) -> list[str]:
    """Overrides that make a recipe with that `optim` the method of METHODS, free of what belongs to another method."""
    own = METHODS[method]
    chosen = dict(each.removeprefix("optim.").split("=") for each in own)
    return [*spelled(not_inherited(optim, chosen)), *own]


def grid(methods: str, rates_tried: str | None, seeds: str | None) -> list[Cell]:
    """All runs, seed by seed, so that an interrupted comparison has seen every method.

    Args:
        methods: names from METHODS, comma-separated; settings may follow each after colons: `galore:optim.rank=32`.
        rates_tried, seeds: comma-separated numbers; None takes the recipe's own.

    Raises:
        UserError: a name is unknown, a number is none, or two runs would be the same.
    """
    names = words(methods, "--methods")
    for name in names:
        refuse_unknown(name.partition(":")[0], METHODS, "method", "--methods")
    rates: list[float | None] = [None] if rates_tried is None else [*learning_rates(rates_tried)]
    numbers = [None] if seeds is None else [_seed(word) for word in words(seeds, SEEDS)]
    cells = [Cell(name, rate, seed) for seed, name, rate in itertools.product(numbers, names, rates)]
    _refuse_twice([cell.folder for cell in cells])
    return cells


RATES, SEEDS = "--learning-rates", "--seeds"
LARGEST_SEED, LONGEST_SEED = 2**63 - 1, 20  # and its digits


def learning_rates(text: str) -> list[float]:
    """Positive numbers between commas. Raises UserError."""
    return [_rate(word) for word in words(text, RATES)]


def words(text: str, where: str) -> list[str]:
    """What stands between commas. Raises UserError, which names the option `where`."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{text!r} names nothing between two commas", where=where, fix="write a,b,c")
    return words


def _rate(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{word!r} is no learning rate", where=RATES, fix="write positive numbers, such as 0.003,0.01")
    return value


def _seed(word: str) -> int:
    if not word.isdecimal() or len(word) > LONGEST_SEED or int(word) > LARGEST_SEED:
        raise UserError(
            f"{shortened(word, LONGEST_SEED)!r} is no seed", where=SEEDS, fix="write whole numbers, such as 1,2,3"
        )
    return int(word)


def refuse_unknown(name: str, known: Collection[str], kind: str, where: str) -> None:
    """Raise UserError, with the nearest, for a `name` that is none of `known`; `kind` is what they are."""
    if name in known:
        return
    near = nearest(name, known)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no {kind} {name!r}", where=where, fix=f"{hint}there are {', '.join(known)}")


def _refuse_twice(folders: Sequence[str]) -> None:
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder} would be run twice", where="--methods", fix="name every run once")
