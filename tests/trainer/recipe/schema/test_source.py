from __future__ import annotations

from typing import Any

import pytest

from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.source import FIELDS, SourceSection


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ({"path": "data/code.jsonl.zst"}, "code"),
        ({"path": ["books/", "more"]}, "books"),
        ({"path": "x/*.txt"}, "*"),
        ({"path": ".hidden"}, ".hidden"),
        ({"path": "a", "name": "b"}, "b"),
    ],
)
def test_what_a_source_is_called(source: dict[str, Any], label: str) -> None:
    assert SourceSection(**source).label == label


def test_a_source_says_only_what_somebody_wrote() -> None:
    source = SourceSection(path="a", weight=2, text_field=["t", "u"])
    assert source.model_dump() == {"path": "a", "weight": 2, "text_field": ["t", "u"]}
    assert source.settings == {"path": "a", "text_field": ["t", "u"]}


def test_a_source_overrides_the_section_and_all_its_columns() -> None:
    sources = [
        {"path": "a"},
        {"path": "b", "messages_field": "m"},
        {"path": "c", "encoding": "Latin1", "format": "txt"},
    ]
    section = DataSection(sources=sources, text_field="body", txt_document="line", max_length=8)
    parts = section.parts
    assert [part.path for part in parts] == ["a", "b", "c"]
    assert [part.text_field for part in parts] == ["body", "text", "body"]
    assert [part.instruct for part in parts] == [False, True, False]
    assert section.instruct
    assert [(part.txt_document, part.max_length, part.sources) for part in parts] == [("line", 8, None)] * 3
    assert parts[2].encoding == "iso8859-1"
    assert set(FIELDS) <= set(SourceSection.model_fields)
    assert DataSection(path="x").parts == [DataSection(path="x")]
