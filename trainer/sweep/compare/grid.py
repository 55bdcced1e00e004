"""Which runs a comparison consists of: methods × learning rates × seeds, each a recipe with some settings changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from galore.trainer.common.errors import UserError
from galore.trainer.common.reading import read_bounded
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.methods import METHODS
from galore.trainer.sweep.options import Trial, learning_rates, load_trial, method_overrides, refuse_unknown, words
from galore.trainer.sweep.options import seeds as seeds_of

FOLDER = re.compile(r"(?P<label>.+?)(?:-lr[0-9.e+-]+)?(?:-seed\d+)?")


def grid(
    recipe: str,
    overrides: Sequence[str],
    methods: str,
    rates: str | None = None,
    seeds: str | None = None,
    runs: int | None = None,
) -> list[Trial]:
    """All runs, seed by seed, so that an interrupted comparison has seen every method.

    Args:
        methods: names from METHODS, comma-separated; settings may follow each after colons: `galore:optim.rank=32`.
        rates, seeds: comma-separated numbers; None takes the recipe's own, and rates `auto` those of each method.
        runs: in place of `seeds`, so many of them, counted up from the recipe's.

    Raises:
        UserError: a name is unknown, a number is none, two runs would be the same, or a recipe is wrong.
    """
    names = words(methods, "--methods")
    for name in names:
        refuse_unknown(name.partition(":")[0], METHODS, "method", "--methods")
    base = load_recipe(recipe, overrides)
    numbers: Sequence[int | None] = seeds_of(seeds, runs, base.recipe.train.seed) or [None]
    tried = {name: _rates(base, recipe, overrides, name, rates) for name in names}
    plans = [(name, rate, seed) for seed in numbers for name in names for rate in tried[name]]
    _refuse_twice([_folder(*plan) for plan in plans])
    return [_trial(base, recipe, overrides, *plan) for plan in plans]


def _rates(
    base: LoadedRecipe, recipe: str, overrides: Sequence[str], method: str, rates: str | None
) -> Sequence[float | None]:
    if rates is None:
        return [None]
    made = _trial(base, recipe, overrides, method, None, None)
    return learning_rates(rates, base.recipe.optim, made.recipe.optim)


def _trial(
    base: LoadedRecipe, recipe: str, overrides: Sequence[str], method: str, rate: float | None, seed: int | None
) -> Trial:
    name, *own = method.split(":")
    chosen = [*overrides, *method_overrides(name, base.recipe, overrides), *own]
    chosen += [] if rate is None else [f"optim.learning_rate={rate!r}"]
    chosen += [] if seed is None else [f"train.seed={seed}"]
    return Trial(_folder(method, rate, seed), name, method, load_trial(recipe, chosen, method))


def _folder(method: str, rate: float | None, seed: int | None) -> str:
    parts = [re.sub(r"[^A-Za-z0-9.-]+", "_", method)]
    parts += [] if rate is None else [f"lr{rate:g}"]
    return "-".join(parts + ([] if seed is None else [f"seed{seed}"]))


def trial_of(folder: str, loaded: LoadedRecipe, labels: Mapping[str, str]) -> Trial:
    """The trial that a folder holds; `labels`: what earlier calls named them."""
    match = FOLDER.fullmatch(folder)
    label = labels.get(folder) or (match["label"] if match else folder)
    return Trial(folder, label.partition(":")[0], label, loaded)


def labels_of(file: Path) -> dict[str, str]:
    """The method of each folder as compare.json of an earlier call has it; empty where there is none."""
    try:
        return {str(run["directory"]): str(run["method"]) for run in json.loads(read_bounded(file))["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _refuse_twice(folders: Sequence[str]) -> None:
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder} would be run twice", where="--methods", fix="name every run once")
