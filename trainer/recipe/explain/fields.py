"""Every field of a recipe in one table, taken from the JSON schema of the models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from galore.trainer.common.format import counted
from galore.trainer.recipe.schema.data import TaskName
from galore.trainer.recipe.schema.recipe import Recipe

TINY = 1e-30  # a lower limit below it is no limit anybody meets on purpose
EXACT = 1e19  # whole numbers below it are written out


@dataclass(frozen=True)
class FieldInfo:
    """One leaf: `section.name`, what it means, and which values it takes (JSON schema)."""

    section: str
    name: str
    description: str
    schema: dict[str, Any]

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def expected(self) -> str:
        """The values it takes, in words: `an integer > 0 or null`."""
        return words(self.schema)

    @property
    def choices(self) -> list[str]:
        return [choice for part in parts(self.schema) for choice in _choices(part)]

    def takes(self, kind: str) -> bool:
        """Whether one of its types is `kind`, by JSON schema name."""
        return any(part.get("type") == kind for part in parts(self.schema))


@cache
def recipe_schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def section_schema(section: str) -> dict[str, Any]:
    reference: str = recipe_schema()["properties"][section]["$ref"]
    definition: dict[str, Any] = recipe_schema()["$defs"][reference.rsplit("/", 1)[-1]]
    return definition


def sections() -> list[str]:
    return list(recipe_schema()["properties"])


@cache
def fields() -> dict[str, FieldInfo]:
    """All leaves by dotted path, in the order of the models."""
    table = (
        FieldInfo(section, name, schema.get("description", ""), schema)
        for section in sections()
        for name, schema in section_schema(section)["properties"].items()
    )
    return {field.path: field for field in table}


def section_fields(section: str) -> list[str]:
    """The keys of one section."""
    return [field.name for field in fields().values() if field.section == section]


def sections_with(name: str) -> list[str]:
    """The sections that have a key called `name`."""
    return [field.section for field in fields().values() if field.name == name]


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    alternatives: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return alternatives


def item_schema(field: FieldInfo) -> dict[str, Any]:
    """The keys of a mapping, or of the items of a list of them, each with its schema; empty for any other field."""
    items = (part.get("items", part) for part in parts(field.schema))
    references = [item["$ref"] for item in items if "$ref" in item]
    definitions: dict[str, Any] = recipe_schema()["$defs"]
    return definitions[references[0].rsplit("/", 1)[-1]]["properties"] if references else {}


def words(schema: dict[str, Any], value: Any = None) -> str:
    """What it takes, in words. The ends of a kind of number are left out, unless `value` is beyond them."""
    return " or ".join(_words(part, value) for part in parts(schema))


def _choices(part: dict[str, Any]) -> list[str]:
    """The only values that it takes, where these are few."""
    return part.get("enum") or ([part["const"]] if "const" in part else [])


def _words(part: dict[str, Any], value: Any) -> str:
    if choices := _choices(part):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if "examples" in part:
        return f"text such as {part['examples'][0]}"
    if "$ref" in part:
        keys = recipe_schema()["$defs"][part["$ref"].rsplit("/", 1)[-1]]["properties"]
        return f"a mapping such as {{{', '.join(f'{name}: …' for name in list(keys)[:2])}}}"
    names = {
        "integer": "an integer",
        "number": "a number",
        "boolean": "true or false",
        "string": "text",
        "null": "null",
    }
    if part["type"] == "array":
        return f"a list{' of mappings' if '$ref' in part['items'] else ' such as [a, b]'}{_size(part, value)}"
    if part["type"] == "object":
        return f"a mapping such as {{name: {words(part['additionalProperties'], value)}}}"
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    far = _is_far(part, value)
    known = {name: part[name] for name in signs if name in part and (far or _told(name, part[name]))}
    if "minimum" in known:
        known.pop("exclusiveMinimum", None)
    limits = [f"{signs[name]} {_number(limit)}" for name, limit in known.items()]
    return " ".join([names[part["type"]] + _size(part, value), " and ".join(limits)]).rstrip()


def _size(part: dict[str, Any], value: Any) -> str:
    """How long a text or list may be, where `value` is one and is not so long."""
    kind, unit = ("Length", "letter") if part["type"] == "string" else ("Items", "item")
    least, most = part.get(f"min{kind}", 0), part.get(f"max{kind}")
    if not isinstance(value, str if kind == "Length" else list) or least <= len(value) <= (most or math.inf):
        return ""
    if most is None or len(value) < least:
        return f" of {counted(least, unit)} or more" if least != most else f" of {counted(least, unit)}"
    return f" of at most {counted(most, unit)}"


def _told(name: str, limit: float) -> bool:
    """Whether a limit is one of this field: the ends of a kind of number (`section.py`) go without saying."""
    return not (name == "maximum" and limit > 1) and not (name == "minimum" and 0 < limit < TINY)


def _is_far(part: dict[str, Any], value: Any) -> bool:
    """Whether one of the numbers in `value` is of the right sign, but beyond the ends of its kind."""
    if isinstance(value, Mapping):
        return any(_is_far(part, each) for each in value.values())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(value > part.get("maximum", value) > 1 or 0 < value < part.get("minimum", 0) < TINY)


def _number(limit: float) -> str:
    return f"{int(limit):,}" if limit < EXACT and float(limit).is_integer() else f"{limit:g}"


EXTENDS = {
    "type": "string",
    "description": "A shipped recipe, or a file relative to this one, whose settings hold unless written here",
}
TASKS = {
    "type": "object",
    "description": "Settings of single GLUE tasks, such as {cola: {optim.learning_rate: 3.0e-5}}; they go before those of the sections of the same file",
    "propertyNames": {"enum": list(get_args(TaskName))},
    "additionalProperties": {"type": "object", "propertyNames": {"enum": list(fields())}},
}


def file_schema() -> dict[str, Any]:
    """The schema of the models, `tasks`, and `extends`, with which required sections may stand in the other recipe."""
    schema = _without_titles(recipe_schema())
    required = schema.pop("required")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "galore recipe",
        **schema,
        "properties": {"extends": EXTENDS, "tasks": TASKS, **schema["properties"]},
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }


def schema_text() -> str:
    return json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n"


def _without_titles(schema: Any) -> Any:
    """pydantic's titles only repeat the names."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(each) for each in schema] if isinstance(schema, list) else schema
