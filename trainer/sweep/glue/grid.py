"""Which runs a fine-tuning on GLUE consists of: tasks × methods × learning rates × seeds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.sweep.compare.grid import learning_rates, refuse_unknown, settings_of, words
from galore.trainer.tasks.glue import TASKS

FAMILY = "roberta-glue"
DEFAULT = f"{FAMILY}-galore-r4"
OF_METHOD = {
    "galore": (DEFAULT, ()),
    "galore-8bit": (DEFAULT, ("optim.state_dtype=8bit",)),
    "frugal-rotate": (f"{FAMILY}-frugal-r4", ()),
    "lora": (f"{FAMILY}-lora-r8", ()),
    "full": (f"{FAMILY}-full", ()),
}  # shipped recipes, each with the rates of its method


@dataclass(frozen=True)
class Cell:
    """One run. `method` is as in OF_METHOD, `learning_rate` and `seed` those of its recipe."""

    task: str
    method: str
    loaded: LoadedRecipe

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def learning_rate(self) -> float:
        return self.recipe.optim.learning_rate

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def label(self) -> str:
        """The method with its rank: `galore-r4`."""
        return self.method if self.recipe.optim.method == "full" else f"{self.method}-r{self.recipe.optim.rank}"

    @property
    def folder(self) -> str:
        """Where the run is kept, inside the folder of all of them."""
        return f"{self.task}/{self.label}-lr{self.learning_rate:g}-seed{self.seed}"


def grid(
    recipe: str | None,
    overrides: Sequence[str],
    tasks: str | None,
    methods: str | None,
    rates: str | None = None,
    seeds: int = 1,
) -> list[Cell]:
    """All runs, task by task, each with its settings resolved.

    Args:
        recipe: None takes the shipped one of each method. A method goes into a recipe of one's own as an override.
        tasks: comma-separated, or `all`; None takes the recipe's. `methods`: comma-separated names from OF_METHOD;
            None takes the recipe's. `rates`: comma-separated learning rates, None takes the recipe's.
        seeds: how many, counted up from the recipe's.

    Raises:
        UserError: a name is unknown, or a recipe is wrong.
    """
    chosen = [None] if methods is None else _known(words(methods, "--method"), OF_METHOD, "--method")
    named = [None] if tasks is None else [*TASKS] if tasks == "all" else _known(words(tasks, "--task"), TASKS, "--task")
    tried = [None] if rates is None else learning_rates(rates)
    plans = itertools.product(named, chosen, tried)
    cells = [cell for plan in plans for cell in _seeds(recipe, overrides, *plan, seeds)]
    return list({cell.folder: cell for cell in cells}.values())


def _seeds(
    recipe: str | None, overrides: Sequence[str], task: str | None, method: str | None, rate: float | None, seeds: int
) -> Iterator[Cell]:
    source, own = _source(recipe, method, overrides)
    fixed = [*own, *overrides, *([f"data.task={task}"] if task else [])]
    fixed += [f"optim.learning_rate={rate!r}"] if rate is not None else []
    first = load_recipe(source, fixed)
    found = first.recipe.data.task
    if found is None:
        raise UserError("is no recipe for GLUE", where=source, fix=f"write `extends: {FAMILY}` in it, or name a task")
    for seed in range(first.recipe.train.seed, first.recipe.train.seed + seeds):
        yield Cell(found, method or method_of(first.recipe), load_recipe(source, [*fixed, f"train.seed={seed}"]))


def _source(recipe: str | None, method: str | None, overrides: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The recipe of a method, and what makes it that method."""
    if method is None:
        return recipe or DEFAULT, ()
    shipped, own = OF_METHOD[method]
    if recipe is None or recipe == FAMILY or recipe in {name for name, _ in OF_METHOD.values()}:
        return shipped, own
    beside = [each for each in overrides if not each.startswith("optim.")]  # those win over the method's anyway
    return recipe, settings_of(method, load_recipe(recipe, beside).recipe.optim)


def method_of(recipe: Recipe) -> str:
    """The name in OF_METHOD, or of the variant."""
    optim = recipe.optim
    name: str = optim.adapter or optim.method
    if optim.residual != "none":
        name = optim.residual + ("-rotate" if optim.transport in (None, "rotate") else "")
    return name + ("-8bit" if optim.state_dtype == "8bit" else "")


def _known(names: Sequence[str], table: Collection[str], where: str) -> list[str]:
    for name in names:
        refuse_unknown(name, table, where.removeprefix("--"), where)
    return list(dict.fromkeys(names))
