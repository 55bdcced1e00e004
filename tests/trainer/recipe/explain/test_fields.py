"""The schema that editors use is the one of the models."""

from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.recipe.explain.fields import fields, file_schema, parts, schema_text
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.parse.problems import RecipeError
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


def numbers() -> list[tuple[str, dict[str, Any]]]:
    """Every part of a field's schema that takes a number."""
    inner = [(path, part.get("additionalProperties", part.get("items", part))) for path, part in _parts()]
    return [(path, part) for path, each in inner for part in parts(each) if part.get("type") in ("integer", "number")]


def _parts() -> list[tuple[str, dict[str, Any]]]:
    return [(path, part) for path, field in fields().items() for part in parts(field.schema)]


def test_every_number_has_both_ends() -> None:
    assert len(numbers()) > 40
    assert [path for path, part in numbers() if not {"maximum", "exclusiveMaximum"} & part.keys()] == []
    assert [path for path, part in numbers() if not {"minimum", "exclusiveMinimum"} & part.keys()] == []


@pytest.mark.parametrize("path", sorted({path for path, _ in numbers()}))
@pytest.mark.parametrize("value", ["1e300", "1e39", "9" * 5000, "0x" + "f" * 5000, "-1e300", "1e400", "-.inf"])
def test_a_number_beyond_its_ends_is_one_line(path: str, value: str) -> None:
    given = f"{{mlp: {value}}}" if path == "optim.rank_pattern" else value
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [f"{path}={given}"])
    assert len(error.value.problems) == 1
    assert len(str(error.value.problems[0])) < 6000


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.num_hidden_layers=1e9", "expected an integer > 0 and ≤ 2,000, got 1e9"),
        ("train.seed=9223372036854775808", "an integer ≥ 0 and ≤ 9,223,372,036,854,775,807, got 9223372036854775808"),
        ("optim.adam_epsilon=1e-320", "expected a number ≥ 1.17549e-38 and ≤ 3.40282e+38, got 1e-320"),
        ("optim.rank_pattern={mlp: 1e9}", "an integer > 0 and ≤ 16,777,216 or a number > 0 and < 1}, got {mlp: 1e9}"),
        ("train.save_total_limit=1", "expected an integer ≥ 2, got 1"),
        ("train.num_train_epochs=-1", "expected a number > 0 or null, got -1"),
    ],
)
def test_the_end_that_was_passed_is_told(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("demo", [override])
    assert str(error.value).endswith(expected)


def test_the_only_value_of_a_field_is_named() -> None:
    loaded = load_recipe("demo")
    assert "row, updates rounded stochastically. int8 or null.\n" in loaded.text
    with pytest.raises(RecipeError, match=r"expected int8 or null, got 'int4'\n +→ write int8"):
        load_recipe("demo", ["optim.weight_dtype=int4"])


def test_every_field_is_described() -> None:
    assert [path for path, field in fields().items() if not field.description] == []


def without_an_end(schema: Any) -> list[dict[str, Any]]:
    """Parts of a schema that are numbers of any size."""
    if isinstance(schema, list):
        return [found for part in schema for found in without_an_end(part)]
    if not isinstance(schema, dict):
        return []
    number = schema.get("type") in ("integer", "number")
    ends = schema.keys() & {"maximum", "exclusiveMaximum", "enum", "const"}
    return ([schema] if number and not ends else []) + without_an_end(list(schema.values()))


def test_no_number_is_without_an_end() -> None:
    assert not without_an_end(file_schema())
    assert without_an_end({"properties": {"steps": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}})
