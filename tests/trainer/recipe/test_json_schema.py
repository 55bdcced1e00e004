"""The schema that editors use is the one of the models."""

from __future__ import annotations

from galore.trainer.recipe.fields import fields
from galore.trainer.recipe.json_schema import file_schema, schema_text
from galore.trainer.recipe.shipped import SCHEMA_FILE


def test_shipped_schema_is_current() -> None:
    written = SCHEMA_FILE.read_text(encoding="utf-8")
    assert written == schema_text(), "run: galore recipes schema --output recipes/recipe.schema.json"


def test_extends_relieves_of_required_sections() -> None:
    schema = file_schema()
    assert schema["anyOf"] == [{"required": ["extends"]}, {"required": ["data", "train"]}]
    assert "required" not in schema
    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["additionalProperties"] is False


def test_every_field_is_described() -> None:
    assert [path for path, field in fields().items() if not field.description] == []
