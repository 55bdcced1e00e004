"""What may change between a run and its resumption: how it is executed, and how it goes on, not what it computed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from galore.trainer.recipe.schema.recipe import Recipe
from galore.trainer.recipe.schema.section import Section

# Keys that say how many steps there are and which rate each has: they may be others where the steps that are done keep
# their rates, which `galore.trainer.schedule` compares.
SCHEDULE = (
    "train.max_steps",
    "train.num_train_epochs",
    "optim.lr_scheduler_type",
    "optim.warmup_steps",
    "optim.warmup_ratio",
    "optim.min_lr_ratio",
    "optim.lr_decay_steps",
    "optim.lr_decay_ratio",
    "optim.lr_decay_type",
    "optim.lr_num_cycles",
    "optim.lr_power",
    "optim.relora_gap",
)

MOVABLE = (
    "data.tokenizer",
    "data.chat_template",
    "model.name_or_path",
    "model.rope",
    "train.length_stages",
    "extra_loss.teacher",
)
"""Keys that may name files. One that lies elsewhere, and no longer where it was, is the same: its project was moved."""

MICRO_BATCH = "train.micro_batch_size"
SCORED_TOGETHER = "eval.micro_batch_size"

BEFORE: dict[str, Any] = {"data.isolate_documents": False, "data.streaming": None, "model.router_aux_loss": 0.0}
"""Keys of which null may mean something else than what was done before they existed, and what that was.

A run that goes on takes null as what it did so far.
"""


def micro_batch_counts(recipe: Recipe, router: bool = False) -> bool:
    """Whether the split into micro-batches is part of what is trained, where it is execution elsewhere.

    Args:
        router: whether the model's configuration asks for a router's loss, which is one of each micro-batch.
    """
    optim, coefficient = recipe.optim, recipe.model.router_aux_loss
    if optim.update == "immediate":
        return True
    if optim.method == "galore" and optim.proj_type != "random" and optim.effective_refresh == "first-micro-batch":
        return True
    return recipe.data.task is None and (router if coefficient is None else coefficient > 0)


def as_before(recipe: Recipe, known: Collection[str]) -> Recipe:
    """The recipe of a run whose file has the keys `known`: it did without the others what was done before them."""
    for path in BEFORE.keys() - known:
        name, key = path.split(".")
        section = getattr(recipe, name).model_copy(update={key: BEFORE[path]})
        recipe = recipe.model_copy(update={name: section})
    return recipe


def taken_over(trained: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """{`section.key`: value} of a run with the mathematics `trained`, for the keys of `BEFORE` that are null here."""
    left = {path for path in BEFORE if getattr(getattr(recipe, path.split(".")[0]), path.split(".")[1]) is None}
    return {path: value for path, value in (_before(recipe) | dict(trained)).items() if path in left}


def changed_mathematics(old: Recipe, new: Recipe, router: bool = False) -> list[str]:
    """`section.key: old → new` for every field that differs and is not marked `execution`, or counts all the same."""
    old, new = _in_full(old), _in_full(new)
    found = [line for name in Recipe.model_fields for line in _changes(name, getattr(old, name), getattr(new, name))]
    sizes = old.train.micro_batch_size, new.train.micro_batch_size
    counts = sizes[0] != sizes[1] and (micro_batch_counts(old, router) or micro_batch_counts(new, router))
    found += [f"{MICRO_BATCH}: {sizes[0]} → {sizes[1]}"] if counts else []
    sizes = old.scored_together, new.scored_together
    counts = sizes[0] != sizes[1] and old.scored_together_counts and new.scored_together_counts
    return [*found, f"{SCORED_TOGETHER}: {sizes[0]} → {sizes[1]}"] if counts else found


def mathematics(recipe: Recipe, router: bool = False) -> dict[str, Any]:
    """`section.key` → value as JSON, of every field that is not marked `execution`, or counts all the same.

    Args:
        router: see `micro_batch_counts`.
    """
    counting = {MICRO_BATCH: recipe.train.micro_batch_size} if micro_batch_counts(recipe, router) else {}
    counting |= {SCORED_TOGETHER: recipe.scored_together} if recipe.scored_together_counts else {}
    return counting | {
        f"{name}.{key}": value
        for name, section in _in_full(recipe).model_dump(mode="json").items()
        for key, value in section.items()
        if not _is_execution(type(getattr(recipe, name)).model_fields[key].json_schema_extra)
    }


def _in_full(recipe: Recipe) -> Recipe:
    """`recipe` without multiples of learning rates, which are no other mathematics; and with what null means for data
    of the hub, which another length of the run changes.
    """
    meant: dict[str, Any] = {"streaming": _streaming(recipe)}
    if not any(map(recipe.streams, recipe.data.parts)):
        meant |= {"shuffle_buffer_size": type(recipe.data).model_fields["shuffle_buffer_size"].default}
    optim = recipe.optim.model_copy(update=recipe.optim.peak_rates)
    return recipe.model_copy(update={"optim": optim, "data": recipe.data.model_copy(update=meant)})


def _before(recipe: Recipe) -> dict[str, Any]:
    """`BEFORE`, where data of the hub were always streamed."""
    return BEFORE | {"data.streaming": None if _streaming(recipe) is None else True}


def _streaming(recipe: Recipe) -> bool | None:
    """What `data.streaming` comes to for a data set of the hub without one of its own; None where there is no such."""
    own = [each.streaming for each in recipe.data.sources or []] or [None]
    left = (part for part, said in zip(recipe.data.parts, own, strict=True) if part.source == "hub" and said is None)
    return next(map(recipe.streams, left), None)


def other_mathematics(trained: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """`section.key: trained → here` for every value of `mathematics` that differs, those of the `SCHEDULE` apart.

    A key that only one of them has is of another version of galore, where it had its default, or the value of `BEFORE`.
    """
    here, trained = mathematics(recipe, MICRO_BATCH in trained), _before(recipe) | dict(trained) if trained else {}
    return [
        f"{key}: {_written(trained[key])} → {_written(here[key])}"
        for key in here
        if key in trained and key not in SCHEDULE and not _same(key, trained[key], here[key])
    ]


def with_schedule(recipe: Recipe, trained: Mapping[str, Any]) -> Recipe:
    """`recipe` with the `SCHEDULE` of `mathematics` that were trained with; a key it does not know had its default."""
    sections: dict[str, dict[str, Any]] = {"train": {}, "optim": {}}
    for path in SCHEDULE:
        section, key = path.split(".")
        default = type(getattr(recipe, section)).model_fields[key].default
        sections[section][key] = trained.get(path, default)
    changed = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=changed)


def _changes(section_name: str, old: Section, new: Section) -> list[str]:
    return [
        f"{section_name}.{key}: {_written(getattr(old, key))} → {_written(getattr(new, key))}"
        for key, field in type(old).model_fields.items()
        if not _is_execution(field.json_schema_extra)
        and not _same(f"{section_name}.{key}", getattr(old, key), getattr(new, key))
    ]


def _same(path: str, old: Any, new: Any) -> bool:
    """Whether a value is what it was: null where that is taken over, and a file that was moved."""
    return old == new or (path in BEFORE and new is None) or (path in MOVABLE and _moved(old, new))


def _moved(old: Any, new: Any) -> bool:
    """Whether the two differ in files alone, of which those of `old` are no longer there."""
    if isinstance(old, Section) and isinstance(new, Section):
        return _moved(old.model_dump(mode="json"), new.model_dump(mode="json"))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_moved(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_moved, old, new))
    paths = isinstance(old, str) and isinstance(new, str) and Path(old).is_absolute() and Path(new).is_absolute()
    return bool(old == new) or (paths and not Path(old).exists())


def _written(value: Any) -> str:
    """A value as a recipe has it, where Python has another word."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _is_execution(extra: object) -> bool:
    return isinstance(extra, dict) and bool(extra.get("execution"))
