"""What the options of a sweep say: names and numbers between commas, and the trial that each combination is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import shortened
from galore.trainer.common.suggest import nearest
from galore.trainer.recipe.change import beside_adapters, not_inherited, spelled
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.methods import METHODS, named
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.optim import OptimSection
from galore.trainer.recipe.schema.recipe import Recipe

RATES, SEEDS, RUNS = "--learning-rates", "--seeds", "--runs"
AUTO, GRID = "auto", (0.5, 1.0, 2.0)  # times the middle of a method's own grid
LARGEST_SEED, LONGEST_SEED = 2**63 - 1, 20  # and its digits


@dataclass(frozen=True)
class Trial:
    """One run of a sweep, kept in `folder` below that of all. Trials of one `label` differ in rate and seed only."""

    folder: str
    method: str
    label: str
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
    def key(self) -> tuple[str | None, str, float, int]:
        """What is one run of a sweep, whatever its folder is called."""
        return self.recipe.data.task, self.label, self.learning_rate, self.seed


def method_overrides(name: str, recipe: Recipe, given: Sequence[str] = ()) -> list[str]:
    """Overrides that make a recipe the method of METHODS, free of what belongs to another method.

    Args:
        given: overrides that are for all methods.
    """
    own = METHODS[name].settings
    chosen = dict(each.removeprefix("optim.").split("=") for each in own)
    keys = [each.partition("=")[0].strip() for each in given]
    return [*spelled(not_inherited(recipe, chosen, keys)), *spelled(beside_adapters(recipe, chosen, keys)), *own]


def load_trial(recipe: str, overrides: Sequence[str], method: str | None) -> LoadedRecipe:
    """A recipe made the `method` that was asked for by name. Raises UserError, which names the method."""
    try:
        return load_recipe(recipe, overrides)
    except RecipeError as error:
        if method is None:
            raise
        raise UserError(error.what, where=f"method {method}") from error


def load_method(recipe: str, overrides: Sequence[str], method: str | None, where: str) -> LoadedRecipe:
    """A recipe as it is, or made the `method` that the option `where` names. Raises UserError."""
    loaded = load_recipe(recipe, overrides)
    if method is None:
        return loaded
    refuse_unknown(method, METHODS, "method", where)
    return load_trial(recipe, [*method_overrides(method, loaded.recipe), *overrides], method)


def words(text: str, where: str) -> list[str]:
    """What stands between commas. Raises UserError, which names the option `where`."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{text!r} names nothing between two commas", where=where, fix="write a,b,c")
    return words


def refuse_unknown(name: str, known: Collection[str], kind: str, where: str) -> None:
    """Raise UserError, with the nearest, for a `name` that is none of `known`; `kind` is what they are."""
    if name in known:
        return
    near = nearest(name, known)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no {kind} {name!r}", where=where, fix=f"{hint}there are {', '.join(known)}")


def learning_rates(text: str, base: OptimSection, made: OptimSection) -> list[float]:
    """Positive numbers between commas; or, of `auto`, a grid of its own for the recipe `made` from `base` by another
    method: around the rate at which its matrices move as much faster, or slower, as METHODS says.

    Raises:
        UserError: something is no number.
    """
    if text.strip() != AUTO:
        return [_rate(word) for word in words(text, RATES)]
    of_full_rank = base.learning_rate * base.effective_scale / named(base).rate
    middle = of_full_rank * named(made).rate / made.effective_scale
    return [float(f"{middle * factor:.2g}") for factor in GRID]


def seeds(text: str | None, runs: int | None, first: int) -> list[int] | None:
    """The whole numbers between the commas of `text`, or as many as `runs`, counted up from `first`.

    None where neither is given. Raises UserError for both, and for what is no seed.
    """
    if text is not None and runs is not None:
        raise UserError("counts seeds, and --seeds names them", where=RUNS, fix="leave one of them out")
    if text is not None:
        return [_seed(word) for word in words(text, SEEDS)]
    return None if runs is None else [*range(first, first + runs)]


def _rate(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(
            f"{word!r} is no learning rate", where=RATES, fix="write positive numbers, such as 0.003,0.01, or auto"
        )
    return value


def _seed(word: str) -> int:
    if not word.isdecimal() or len(word) > LONGEST_SEED or int(word) > LARGEST_SEED:
        raise UserError(
            f"{shortened(word, LONGEST_SEED)!r} is no seed", where=SEEDS, fix="write whole numbers, such as 1,2,3"
        )
    return int(word)
