"""A recipe as YAML, every field with its meaning above it."""

from __future__ import annotations

import functools
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from galore.trainer.common.printable import printable
from galore.trainer.recipe.explain.fields import FieldInfo, fields, section_schema, sections
from galore.trainer.recipe.parse.syntax import dump_value
from galore.trainer.recipe.schema.recipe import Recipe

WIDTH = 118


def dump_recipe(recipe: Recipe, header: str = "") -> str:
    """The whole recipe, defaults included, but not those without effect. `recipe_from_resolved` reads it back equal.

    Args:
        header: lines (without `#`) that stand on top.
    """
    values = recipe.model_dump(mode="json")
    top = "".join(f"# {line}\n" for line in printable(header).splitlines())
    idle = [f"model.{name}" for name in recipe.model.without_effect]
    return "\n".join([top] * bool(top) + [_section(name, values[name], idle) for name in sections()])


def dump_settings(recipe: Recipe) -> str:
    """What differs from the defaults, as YAML without comments."""
    values, found = recipe.model_dump(mode="json"), dict[str, list[str]]()
    for field in fields().values():
        value = values[field.section][field.name]
        if value != field.schema.get("default"):
            found.setdefault(field.section, []).append(f"  {field.name}: {dump_value(value)}\n")
    return "".join(f"{section}:\n{''.join(lines)}" for section, lines in found.items())


def dotted(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """("optim.rank", "128") …: a recipe, JSON, for a place that takes no sections."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _section(name: str, values: dict[str, Any], idle: list[str]) -> str:
    about = section_schema(name).get("description", "")
    body = [
        _leaf(field, values[field.name], field.path in idle)
        for field in fields().values()
        if field.section == name and not (field.path in idle and values[field.name] == field.schema.get("default"))
    ]
    return "".join([*_comment(about, ""), f"{name}:\n", *body])


def _leaf(field: FieldInfo, value: Any, idle: bool) -> str:
    about = "Without effect beside the others: " if idle else ""
    expected = field.expected  # a value to write keeps its own letters
    if not expected.startswith(tuple(field.choices) or "\0"):
        expected = expected[0].upper() + expected[1:]
    about += f"{field.description}. {expected}."
    return "".join([*_comment(about, "  "), f"  {field.name}: {dump_value(value)}\n"])


@functools.cache
def _comment(text: str, indent: str) -> tuple[str, ...]:
    return tuple(f"{indent}# {line}\n" for line in textwrap.wrap(text, WIDTH - len(indent) - 2))
