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
    weighed = SourceSection(path="a", loss_weight=30)
    assert weighed.model_dump() == {"path": "a", "weight": 1, "loss_weight": 30}
    assert weighed.settings == {"path": "a"}


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


def test_a_data_set_of_the_hub_is_named_and_no_file_is_asked_for_it() -> None:
    sources = [
        {"name": "org/set-1.5", "hub_config": "en", "validation_fraction": 0.1},
        {"source": "hub", "path": "org/set-1.5", "split": "test"},
        {"source": "hub", "path": "org/other", "name": "mine", "hub_config": "de", "validation_split": "dev"},
        {"path": "a.txt", "validation_fraction": 0.2},
    ]
    section = DataSection(sources=sources, validation_split="held")
    assert section.labels == ["org/set-1.5:en", "set-1.5", "mine", "a"]
    asked = [(part.source, part.path, part.hub_config, part.split, part.validation_split) for part in section.parts[:3]]
    assert asked == [
        ("hub", "org/set-1.5", "en", "train", None),
        ("hub", "org/set-1.5", None, "test", "held"),
        ("hub", "org/other", "de", "train", "dev"),
    ]
    assert (section.of_the_hub, DataSection(path="x").of_the_hub) == (True, False)
    assert DataSection(source="hub", sources=[{"path": "x"}]).parts[0].source == "hub"
    assert DataSection.model_validate(section.model_dump()) == section


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"weight": 2}, "it names nothing: give it a path, or the name of a data set on the hub"),
        ({"source": "local", "name": "x"}, "its source is local, which needs a path"),
        (
            {"name": "x/y", "format": "csv"},
            "sources, x/y: format is for local files, and this is a data set of the hub",
        ),
        ({"name": "x/y", "validation_path": "v"}, "validation_path is for local files"),
        ({"path": ["x/y", "z"], "source": "hub"}, "path names several data sets of the hub: make a source of each"),
        ({"path": "x", "hub_config": "en"}, "sources, x: hub_config is for data sets of the hub, and path names files"),
        ({"name": "x/y", "tokens_field": "ids"}, "tokens_field is for local files"),
        (
            {"name": "a"},
            "2 of the sources are called a: give each a name, those of the hub by path, with hub as source",
        ),
    ],
)
def test_keys_that_do_not_go_with_what_a_source_is(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSection(sources=[{"path": "a"}, source])


@pytest.mark.parametrize(
    ("source", "where", "expected"),
    [
        ({"name": "x/y"}, "data.path: x/y, split: train", "data.sources[2].name: x/y, split: train"),
        ({"path": "x", "text_field": "t"}, "data.text_field", "data.sources[2].text_field"),
        ({"path": "x"}, "data.text_field", "data.text_field (data.sources[2]: x)"),
        ({"name": "x/y"}, "x/y [train]", "x/y [train] (data.sources[2]: x/y)"),
    ],
)
def test_an_error_is_told_of_the_key_of_its_source(source: dict[str, Any], where: str, expected: str) -> None:
    assert SourceSection(**source).place(2, where) == expected


@pytest.mark.parametrize("key", ["split", "validation_split"])
def test_a_part_of_a_split_is_refused(key: str) -> None:
    for section, named in ((DataSection, {"source": "hub"}), (SourceSection, {})):
        with pytest.raises(ValueError, match=r"train\[:50%\] is a part of a split"):
            section.model_validate({"path": "a/b", **named, key: "train[:50%]"})
        section.model_validate({"path": "a/b", **named, key: "train+test"})
