"""Which runs a fine-tuning on GLUE consists of: tasks × methods × learning rates × seeds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from galore.trainer.common.errors import UserError
from galore.trainer.common.suggest import plain
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.methods import GLUE, GLUE_DEFAULT, METHODS
from galore.trainer.recipe.parse.problems import RecipeError
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.sweep.options import (
    Trial,
    learning_rates,
    load_trial,
    method_overrides,
    refuse_unknown,
    words,
)
from galore.trainer.sweep.options import seeds as seeds_of
from galore.trainer.tasks.glue import TASKS

EVERY = "all"  # in place of a task's name
OWN_RECIPES = {method.glue for method in METHODS.values() if method.glue}


def grid(
    recipe: str | None,
    overrides: Sequence[str],
    tasks: str | None,
    methods: str | None,
    rates: str | None = None,
    seeds: str | None = None,
    runs: int | None = None,
) -> list[Trial]:
    """All runs, task by task, each with its settings resolved.

    Args:
        recipe: None takes the shipped one of each method. A method goes into a recipe of one's own as an override.
        tasks: comma-separated, by the hub's name or GLUE's own, or `all`; None takes the recipe's.
        methods: comma-separated names from METHODS; None takes the recipe's.
        rates: comma-separated learning rates, None takes the recipe's, and `auto` half of it and twice it, too.
        seeds: comma-separated; None takes the recipe's.
        runs: in place of `seeds`, so many of them, counted up from the recipe's.

    Raises:
        UserError: a name is unknown, or a recipe is wrong.
    """
    chosen = [None] if methods is None else _known(words(methods, "--method"), METHODS, "--method")
    named = [None] if tasks is None else _tasks(tasks)
    if recipe is not None:
        _refuse_text(recipe, overrides)
    plans = itertools.product(named, chosen)
    trials = [trial for plan in plans for trial in _trials(recipe, overrides, *plan, rates, (seeds, runs))]
    return list({trial.folder: trial for trial in trials}.values())


def task_of(trial: Trial) -> str:
    """The name in TASKS."""
    task = trial.recipe.data.task
    assert task is not None
    return task


def trial_of(folder: str, loaded: LoadedRecipe) -> Trial:
    """The trial that a folder holds.

    Raises:
        UserError: a run that is there has no task.
    """
    if loaded.recipe.data.task is None:
        raise UserError("is no run on GLUE", where=folder)
    name = PurePosixPath(folder).name
    label = name.removesuffix(_suffix(loaded.recipe))
    return Trial(folder, label.removesuffix(_rank(loaded.recipe)), label, loaded)


def _tasks(text: str) -> list[str]:
    called = {plain(name): task.name for task in TASKS.values() for name in (task.name, task.folder)}
    asked = words(text, "--task")
    named = [called.get(plain(word), word) for word in asked if plain(word) != EVERY]
    known = _known(named, TASKS, "--task") if named else []
    return known if len(named) == len(asked) else [*TASKS]


def _trials(
    recipe: str | None,
    overrides: Sequence[str],
    task: str | None,
    method: str | None,
    rates: str | None,
    seeds: tuple[str | None, int | None],
) -> Iterator[Trial]:
    source, own = _source(recipe, method, overrides)
    named = [f"data.task={task}"] if task else []
    fixed = [*own, *overrides, *named]
    first = load_trial(source, fixed, method)
    found = first.recipe.data.task
    if found is None:
        raise UserError("names no task", where=source, fix="name one: --task sst2")
    name = method or method_of(first.recipe)
    made = base = first.recipe.optim
    if own:
        base = load_recipe(source, [*_beside(overrides), *named]).recipe.optim
    own_seed = first.recipe.train.seed
    numbers = seeds_of(*seeds, own_seed) or [own_seed]
    tried = [[]] if rates is None else [[f"optim.learning_rate={rate!r}"] for rate in learning_rates(rates, base, made)]
    for rate, seed in itertools.product(tried, numbers):
        loaded = load_recipe(source, [*fixed, *rate, f"train.seed={seed}"])
        label = name + _rank(loaded.recipe)
        yield Trial(f"{found}/{label}{_suffix(loaded.recipe)}", name, label, loaded)


def _refuse_text(source: str, overrides: Sequence[str]) -> None:
    """Raise UserError for a recipe of text, whatever a task would make of its other settings."""
    if any(each.startswith("data.source=") for each in overrides):
        return
    with suppress(RecipeError):  # which may need what the command line adds, and is read once more with it
        if load_recipe(source).recipe.data.source != "glue":
            raise UserError("is no recipe for GLUE", where=source, fix=f"write `extends: {GLUE}` in it")


def _source(recipe: str | None, method: str | None, overrides: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The recipe of a method, and what makes it that method."""
    if method is None:
        return recipe or GLUE_DEFAULT, ()
    shipped = METHODS[method].glue
    if recipe is None or recipe == GLUE or recipe in OWN_RECIPES:
        if shipped is not None:
            return shipped, ()
        recipe = GLUE_DEFAULT
    return recipe, method_overrides(method, load_recipe(recipe, _beside(overrides)).recipe)


def _beside(overrides: Sequence[str]) -> list[str]:
    """The overrides outside section `optim`; those inside win over the method's anyway."""
    return [each for each in overrides if not each.startswith("optim.")]


def method_of(recipe: Recipe) -> str:
    """What a recipe's method is called in the names of folders."""
    optim = recipe.optim
    name: str = optim.adapter or optim.method
    if optim.residual != "none":
        name = optim.residual + ("-rotate" if optim.transport in (None, "rotate") else "")
    return name + ("-8bit" if optim.state_dtype == "8bit" else "")


def _rank(recipe: Recipe) -> str:
    return "" if recipe.optim.method == "full" else f"-r{recipe.optim.rank}"


def _suffix(recipe: Recipe) -> str:
    return f"-lr{recipe.optim.learning_rate:g}-seed{recipe.train.seed}"


def _known(names: Sequence[str], table: Collection[str], where: str) -> list[str]:
    for name in names:
        refuse_unknown(name, table, where.removeprefix("--"), where)
    return list(dict.fromkeys(names))
