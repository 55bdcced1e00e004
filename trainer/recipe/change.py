"""A loaded recipe with some settings changed by the program."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from galore.kernels.family import WITH_MOMENTUM
from galore.trainer.common.durable import make_directory, refuse_below_file, replace_file
from galore.trainer.common.errors import UserError
from galore.trainer.recipe.dump import dump_recipe
from galore.trainer.recipe.load import LoadedRecipe, load_recipe
from galore.trainer.recipe.parse.syntax import dump_value
from galore.trainer.recipe.schema.optim import RATES, OptimSection
from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.shipped import SUFFIXES


def changed(loaded: LoadedRecipe, settings: Mapping[str, Any]) -> LoadedRecipe | None:
    """`loaded` with {"section.key": value} in place; None where the result contradicts itself."""
    values = loaded.recipe.model_dump()
    for path, value in settings.items():
        section, key = path.split(".")
        values[section][key] = value
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError:
        return None
    header = f"Resolved from {loaded.origin}" + "".join(f"\n  {each}" for each in spelled(settings))
    return replace(loaded, recipe=recipe, text=dump_recipe(recipe, header))


RESTARTS = ("relora_gap", "relora_warmup_steps")
OF_ENDS = (*RATES[1:], "head_inner")  # what embeddings and head have for themselves
RANDOM = ("apollo", "apollo-mini")  # residuals whose subspace is random


def not_inherited(recipe: Recipe, chosen: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """{"section.key": value} in place of what `recipe` says of its own method, which another must not take over.

    A scale of GaLore's updates, for one, would multiply the learning rate of a control that projects nothing, and the
    rate that embeddings want beside NorMuon is too high for AdamW.

    Args:
        chosen: {key of `optim`: value} that makes the other method.
        given: keys, section first, that were set for all methods: rates among them are kept if what has them is
            trained.
    """
    optim = recipe.optim
    kept = {"method": optim.method, "inner": "adamw", "residual": "none", "adapter": None, **chosen}
    names = ["inner", "residual", "adapter", *(() if kept["adapter"] == "relora" else RESTARTS)]
    names += ["residual_scale", "switch", *(["transport"] if optim.transport == "complete" else [])]
    if kept["method"] != "galore":
        names += ["weight_dtype", "update"]
    if optim.residual in RANDOM and kept["residual"] not in RANDOM:
        names += ["proj_type"]
    if _meaning_of_scale(optim.model_dump()) != _meaning_of_scale(kept):
        names += ["scale"]
    if _meaning_of_rates(optim.model_dump()) != _meaning_of_rates(kept):
        names += [name for name in OF_ENDS if f"optim.{name}" not in given]
    if kept["method"] == "lora":
        names += ["head_inner"]
    in_full = optim.train_modules or recipe.data.task or beside_adapters(recipe, kept, given)
    if kept["method"] == "lora" and kept["adapter"] != "factors" and not in_full:
        names += RATES[1:]  # adapters alone
    defaults = OptimSection()
    found = {
        f"optim.{name}": getattr(defaults, name)
        for name in names
        if name not in chosen and getattr(optim, name) != getattr(defaults, name)
    }
    if kept["method"] == "lora" and optim.rank < 1:
        found |= {"optim.rank": max(1, round(optim.rank * recipe.model.width)) if recipe.model.width else defaults.rank}
    if optim.state_dtype == "4bit" and kept["inner"] not in WITH_MOMENTUM:
        found |= {"optim.state_dtype": "8bit"}  # as all that is no momentum has beside it
    return found


def beside_adapters(recipe: Recipe, chosen: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """{"section.key": value} of what trains beside adapters on drawn matrices: embeddings, head and last norm, as the
    shipped -lora recipes have it. Where they have been trained before, adapters are enough.

    Args:
        chosen, given: see `not_inherited`.
    """
    model, key = recipe.model, "optim.train_modules"
    adapters = chosen.get("method") == "lora" and chosen.get("adapter") != "factors"
    if not (adapters and model.has_own_dimensions) or recipe.optim.train_modules or key in given:
        return {}
    adapted = {name for target in recipe.optim.target_modules for name in target.split(".")}
    return {key: tuple(name for name in ("embed_tokens", "lm_head", "norm") if name not in adapted)}


def _meaning_of_scale(values: Mapping[str, Any]) -> tuple[object, ...]:
    """What `scale` multiplies, and its default; where they differ, no number suits both."""
    made = {name: values[name] for name in ("method", "inner", "residual", "adapter")}
    return made["method"], made["inner"], made["adapter"], OptimSection.model_construct(**made).effective_scale


def _meaning_of_rates(values: Mapping[str, Any]) -> tuple[object, ...]:
    """What decides how rates of embeddings and head stand to that of the matrices."""
    method, *rule = _meaning_of_scale(values)
    return method == "lora", *rule


def spelled(settings: Mapping[str, Any]) -> list[str]:
    """Settings as overrides on the command line: `train.gradient_checkpointing=true`."""
    return [f"{path}={_word(value)}" for path, value in settings.items()]


def _word(value: Any) -> str:
    """A value as YAML; a list without blanks, which is one word to a shell."""
    return f"[{','.join(map(_word, value))}]" if isinstance(value, list | tuple) else dump_value(value)


SCHEMA = "`galore recipes schema` gives editors the schema to complete by"


def copy_recipe(name: str, target: Path, overrides: Sequence[str] = (), *, force: bool = False) -> Path:
    """Writes the resolved recipe, every field commented, and returns the file.

    It names no schema, whose address would be one of this machine, but how editors get one.

    Raises:
        UserError: the recipe is wrong, or the file exists and `force` is not set.
    """
    loaded = load_recipe(name, overrides)
    file = target / f"{loaded.name}.yaml" if target.is_dir() else target
    if file.suffix not in SUFFIXES:
        raise UserError("a recipe's name ends in .yaml", where=str(file), fix=f"write {file}.yaml")
    if file.exists() and not force:
        raise UserError("exists already", where=str(file), fix="choose another name, or replace it with --force")
    header = f"Copied from {loaded.origin}; defaults are written out. {SCHEMA}"
    refuse_below_file(file, "choose another folder")
    make_directory(file.parent)
    replace_file(file, dump_recipe(loaded.recipe, header))
    return file
