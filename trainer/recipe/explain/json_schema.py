"""The JSON schema of a recipe file, for editors."""

from __future__ import annotations

import json
from typing import Any, get_args

from galore.trainer.recipe.explain.fields import fields, recipe_schema
from galore.trainer.recipe.schema.recipe import TaskName

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
    """The schema of the models, `tasks`, and `extends`, with which the required sections may stand in the other recipe."""
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
