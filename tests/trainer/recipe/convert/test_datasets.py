"""Data sets that a file of another toolkit names become paths, columns and sources, packed as there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toolkit_files import FILES, settings, write, write_text

from galore.trainer.common.errors import UserError
from galore.trainer.recipe.convert.convert import convert
from galore.trainer.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("tool", "packs", "text"),
    [
        ("llama-factory", {"packing": True}, {"stage": "pt"}),
        ("axolotl", {"sample_packing": True}, {"datasets": [{"path": "me/x", "type": "completion"}]}),
        ("torchtune", {"dataset": {"_component_": "torchtune.datasets.alpaca_dataset", "packed": True}},
         {"dataset": {"_component_": "torchtune.datasets.text_completion_dataset", "source": "me/x"}}),
    ],
)  # fmt: skip
def test_examples_have_a_row_each_where_the_file_packs_none(
    tool: str, packs: dict[str, Any], text: dict[str, Any], tmp_path: Path
) -> None:
    silent = {"dataset": {"_component_": "torchtune.datasets.alpaca_dataset"}} if tool == "torchtune" else {}
    without = ("packing", "neat_packing", "sample_packing")
    made = convert(write(tmp_path, tool, without, **silent))
    assert settings(made.text)["data.packing"] == "paper"
    (told,) = [each for each in made.told if each.path == "data.packing"]
    assert (told.line, "fewer steps of more examples" in told.why) == (0, True)
    assert settings(convert(write(tmp_path, tool, without, **packs)).text)["data.packing"] == "packed"
    assert "data.packing" not in settings(convert(write(tmp_path, tool, without, **text)).text)


def test_several_data_sets_of_the_hub_are_sources(tmp_path: Path) -> None:
    made = convert(str(FILES / "axolotl.yaml"))
    first, second = settings(made.text)["data.sources"]
    assert (first["name"], second["name"], first["response_field"]) == ("tatsu-lab/alpaca", "me/other", "output")
    (told,) = [each for each in made.told if each.key == "datasets"]
    assert "all have the same share of the sequences" in told.why
    entry = {"path": "me/x", "name": "en", "type": "completion"}
    mixed = [entry, entry | {"split": "test"}, {"path": "a.jsonl", "type": "chat_template"}]
    found = settings(convert(write(tmp_path, "axolotl", datasets=mixed)).text)
    one, two, three = found["data.sources"]
    assert (one["source"], one["path"], one["name"], one["hub_config"]) == ("hub", "me/x", "me/x:en-1", "en")
    assert (two["name"], two["split"], two["text_field"]) == ("me/x:en-2", "test", "text")
    assert (three["path"], three["messages_field"]) == ("a.jsonl", "messages")
    assert (found["data.source"], found["data.validation_split"]) == ("local", None)
    load_recipe(write_text(tmp_path, convert(write(tmp_path, "axolotl", datasets=mixed)).text))


def test_probabilities_of_llama_factory_are_weights(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    info = {"x": {"hf_hub_url": "me/x", "subset": "en"}, "y": {"file_name": "y.json"}}
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info))
    given = {"dataset": "x,y", "dataset_dir": str(tmp_path / "data"), "mix_strategy": "interleave_under"}
    made = convert(write(tmp_path, "llama-factory", **given, interleave_probs="0.7,0.3"))
    one, two = settings(made.text)["data.sources"]
    assert (one["name"], one["hub_config"], one["weight"], two["weight"]) == ("me/x", "en", 0.7, 0.3)


def test_files_that_are_read_in_several_ways_are_sources(tmp_path: Path) -> None:
    theirs = [{"path": "a.jsonl", "type": "alpaca"}, {"path": "b.jsonl", "type": "chat_template"}]
    made = convert(write(tmp_path, "axolotl", datasets=theirs))
    first, second = settings(made.text)["data.sources"]
    assert (first["path"], first["prompt_field"]) == ("a.jsonl", "instruction")
    assert (second["path"], second["messages_field"]) == ("b.jsonl", "messages")
    (tmp_path / "data").mkdir()
    info = {
        "x": {"file_name": "x.json"},
        "y": {"file_name": "y.json", "formatting": "sharegpt"},
        "z": {"hf_hub_url": "z"},
    }
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info))
    again = convert(write(tmp_path, "llama-factory", dataset="x,y,z", dataset_dir=str(tmp_path / "data")))
    assert [len(each) for each in settings(again.text)["data.sources"]] == [4, 2, 4]
    (told,) = [each for each in again.told if each.key == "dataset"]
    assert "which is read in 2 ways" in told.why


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ([{"path": "a.jsonl", "type": "completion", "field": "body"}, {"path": "b.jsonl", "type": "completion", "field": "body"}],
         {"data.path": ["a.jsonl", "b.jsonl"], "data.text_field": "body", "data.source": "local"}),
        ([{"path": "json", "data_files": "c.json", "type": "chat_template"}],
         {"data.path": "c.json", "data.messages_field": "messages"}),
        ([{"path": "me/x", "name": "en", "type": {"field_instruction": "q", "field_output": "a"}}],
         {"data.hub_config": "en", "data.prompt_field": "q", "data.response_field": "a"}),
    ],
)  # fmt: skip
def test_data_sets_of_axolotl(datasets: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    found = settings(convert(write(tmp_path, "axolotl", datasets=datasets)).text)
    assert {path: found.get(path) for path in expected} == expected


def test_data_sets_of_llama_factory_are_looked_up(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    chat = {"file_name": "chat.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk"}}
    (tmp_path / "data/dataset_info.json").write_text(json.dumps({"chat": chat, "far": {"hf_hub_url": "me/far"}}))
    (tmp_path / "data/chat.jsonl").write_text("{}")
    given = {"dataset_dir": str(tmp_path / "data")}
    local = settings(convert(write(tmp_path, "llama-factory", **given, dataset="chat")).text)
    assert local["data.path"] == str(tmp_path / "data/chat.jsonl")
    assert local["data.messages_field"] == "talk"
    far = settings(convert(write(tmp_path, "llama-factory", **given, dataset="far")).text)
    assert (far["data.source"], far["data.path"], far["data.streaming"]) == ("hub", "me/far", False)
    steps = {"max_steps": 9, "streaming": True}
    assert settings(convert(write(tmp_path, "llama-factory", **given, dataset="far", **steps)).text)["data.streaming"]
    endless = convert(write(tmp_path, "llama-factory", **given, dataset="far", streaming=True))
    assert settings(endless.text)["data.streaming"] is False
    assert "without max_steps all is read" in next(each.why for each in endless.told if each.key == "streaming")
    text = settings(convert(write(tmp_path, "llama-factory", dataset="notes", stage="pt")).text)
    assert text["data.text_field"] == "text"


ALPACA = "torchtune.datasets.alpaca_dataset"


@pytest.mark.parametrize(
    ("tool", "theirs", "where"),
    [
        ("axolotl", {"datasets": [{"path": "me/x", "split": "train[:10%]"}]}, ":3: datasets: .*data.split: "),
        ("axolotl", {"datasets": [{"path": "me/x"}, {"path": "me/y", "split": "train[:10%]"}]}, r"sources\[1\].split: "),
        ("axolotl", {"datasets": [{"path": "x.jsonl", "split": "train[:10%]"}]}, "data.split: "),
        ("axolotl", {"datasets": [{"path": "x.jsonl"}, {"path": "y.jsonl", "split": "train[:10%]"}]}, r"\[1\].split: "),
        ("torchtune", {"dataset": {"_component_": ALPACA, "split": "train[:10%]"}}, ":7: dataset._component_: .*data.split: "),
        ("torchtune", {"dataset": [{"_component_": ALPACA, "split": "train[:10%]"}]}, ":6: dataset: .*data.split: "),
        ("torchtune", {"dataset": {"_component_": ALPACA, "source": "json", "data_files": "x.json",
                                   "split": "train[:10%]"}}, "data.split: "),
    ],
)  # fmt: skip
def test_a_part_of_a_split_does_not_become_all_of_it(
    tool: str, theirs: dict[str, Any], where: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{where}train\[:10%\] is a part of a split"):
        convert(write(tmp_path, tool, **theirs), tool)


@pytest.mark.parametrize(("split", "source"), [("train[:10%]", "file_name"), ("train[5%:]", "hf_hub_url")])
def test_nor_does_one_of_dataset_info(split: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {source: "x.json", "split": split}}))
    with pytest.raises(UserError, match=r":\d+: dataset: gives no recipe: data.split: train"):
        convert(write(tmp_path, "llama-factory", dataset="x", dataset_dir=str(tmp_path)))


@pytest.mark.parametrize("datasets", [[], [{}], 5, [{"path": ["a", "b"]}], [{"path": "me/y"}, {"path": 5}]])
def test_data_sets_that_cannot_be_read_are_named(datasets: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives no recipe: datasets: its value is not of a kind"):
        convert(write(tmp_path, "axolotl", datasets=datasets))
