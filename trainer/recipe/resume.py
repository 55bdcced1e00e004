"""What may change between a run and its resumption: how it is executed, not what it computes."""

from __future__ import annotations

from galore.trainer.recipe.schema import Recipe
from galore.trainer.recipe.section import Section


def changed_mathematics(old: Recipe, new: Recipe) -> list[str]:
    """`section.key: old → new` for every field that differs and is not marked `execution`."""
    return [line for name in Recipe.model_fields for line in _changes(name, getattr(old, name), getattr(new, name))]


def _changes(section_name: str, old: Section, new: Section) -> list[str]:
    return [
        f"{section_name}.{key}: {getattr(old, key)} → {getattr(new, key)}"
        for key, field in type(old).model_fields.items()
        if getattr(old, key) != getattr(new, key) and not _is_execution(field.json_schema_extra)
    ]


def _is_execution(extra: object) -> bool:
    return isinstance(extra, dict) and bool(extra.get("execution"))
