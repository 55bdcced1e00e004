"""What sections are built from: numbers with an end, fields of execution, and options of a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from galore.trainer.recipe.schema import section
from galore.trainer.recipe.schema.section import Section, execution, with_options

ENDS: dict[str, tuple[Any, Any]] = {  # kind: the least and the most
    "Layers": (1, 2_000),
    "Vocabulary": (1, 2**31 - 1),
    "StepsOrNone": (0, None),
    "Checkpoints": (2, 1_000_000),
    "Seed": (0, 2**63 - 1),
    "Tokens": (1, 2**63 - 1),
    "Fraction": (0.0, 1.0),
}


@pytest.mark.parametrize("kind", ENDS)
def test_numbers_have_an_end(kind: str) -> None:
    check = TypeAdapter(getattr(section, kind)).validate_python
    low, high = ENDS[kind]
    for value, beyond in ((low, low - 1), (high, high and high + 1)):
        if value is not None:
            assert check(value) == value
            with pytest.raises(ValidationError):
                check(beyond)


@pytest.mark.parametrize(("kind", "value"), [("Share", 0.0), ("Share", 1.0), ("Positive", 0.0), ("Positive", 1e-60)])
def test_open_ends(kind: str, value: float) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(getattr(section, kind)).validate_python(value)


class Small(Section):
    width: float = 1.0
    threads: section.Threads = execution(2, "Threads")


def test_a_section_is_frozen_and_takes_its_own_keys_only() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Small().width = 2.0
    with pytest.raises(ValidationError, match="wdith"):
        Small.model_validate({"wdith": 2.0})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ValidationError):
        Small(width=value)


def test_execution_is_marked_and_keeps_its_limits() -> None:
    fields = Small.model_fields
    assert fields["threads"].json_schema_extra == {"execution": True}
    assert fields["width"].json_schema_extra is None
    assert fields["threads"].description == "Threads"
    with pytest.raises(ValidationError):
        Small(threads=0)


def test_options_come_after_the_sections_own_fields() -> None:
    @dataclass
    class Options:
        rank: int = field(default=4, metadata={"description": "Of P", "gt": 0})

    made = with_options(Small, Options)
    assert list(made.model_fields) == ["width", "threads", "rank"]
    assert made.model_fields["rank"].description == "Of P"
    assert made().model_dump() == {"width": 1.0, "threads": 2, "rank": 4}
    with pytest.raises(ValidationError, match="rank"):
        made.model_validate({"rank": 0})
    assert issubclass(made, Small)
    assert made.model_config["frozen"]
