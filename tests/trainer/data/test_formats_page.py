"""The files that docs/data.md shows are read by the recipes that stand below them, every row of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from snippets import ROOT

from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.rows.mixed import MixedData
from galore.trainer.recipe.load import load_recipe

PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^`([\w.]+)`:\n\n```text\n(.*?)^```\n\n```yaml\n(.*?)^```", PAGE, re.M | re.S)
MIXED, STREAMED = [text for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S) if "sources:" in text]
MODEL = "{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: null}"


def prepared(folder: Path, recipe: str, chat_tokenizer: Path, *overrides: str) -> Any:
    (folder / "shown.yaml").write_text(recipe)
    small = [f"data.tokenizer={chat_tokenizer}", f"data.cache_dir={folder / 'cache'}", "train.max_steps=1"]
    loaded = load_recipe(str(folder / "shown.yaml"), [*small, *overrides])
    return prepare_data(loaded.recipe, folder)


@pytest.mark.parametrize(("name", "text", "recipe"), SHOWN, ids=[name for name, _, _ in SHOWN])
def test_a_file_that_is_shown_is_read_by_its_recipe(
    tmp_path: Path, chat_tokenizer: Path, name: str, text: str, recipe: str
) -> None:
    (tmp_path / name).write_text(text)
    length = "data.max_length=400" if "text_field" not in recipe else "data.max_length=16"
    data = prepared(tmp_path, recipe, chat_tokenizer, length, "data.validation_fraction=0")
    assert data.summary["bad_rows"] == {}
    assert data.summary["documents"] == {"train": 2, "validation": 0}


def test_all_formats_are_shown() -> None:
    assert len(SHOWN) == 7
    assert {Path(name).suffix for name, _, _ in SHOWN} == {".csv", ".json", ".jsonl"}


def test_the_sources_that_are_mixed_are_those_shown(tmp_path: Path, chat_tokenizer: Path) -> None:
    for name, text, _ in SHOWN:
        (tmp_path / name).write_text(text + "3,Snow,white and still\n" * 40 * (name == "news.csv"))
    recipe = MIXED.replace(", validation_fraction: 0.05", "")
    assert recipe != MIXED
    data = prepared(tmp_path, recipe, chat_tokenizer, "data.max_length=400", "data.validation_fraction=0")
    assert isinstance(data, MixedData)
    assert data.shares == (3, 1)


def test_the_data_sets_of_the_hub_that_are_mixed_are_those_shown(tmp_path: Path, chat_tokenizer: Path) -> None:
    pytest.importorskip("datasets")
    conversation = {"messages": [{"role": "user", "content": "Add N."}, {"role": "assistant", "content": "5"}]}
    question = {"question": "2 and N?", "answer": "5"}
    for name, row in (("HuggingFaceTB/smoltalk/train", conversation), ("openai/gsm8k/train", question)):
        (tmp_path / name).parent.mkdir(parents=True)
        rows = [json.dumps(row).replace("N", str(number)) + "\n" for number in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
        (tmp_path / f"{name.replace('train', 'test')}.jsonl").write_text("".join(rows[:1]))
    (tmp_path / "sharegpt.json").write_text(next(text for name, text, _ in SHOWN if name == "sharegpt.json"))
    recipe = re.sub(r" hub_config: \w+,", "", STREAMED).replace(
        " validation_fraction: 0.001}", " validation_split: test}"
    )
    data = prepared(tmp_path, recipe, chat_tokenizer, "data.max_length=400", "data.validation_fraction=0")
    assert isinstance(data, MixedData)
    assert (list(data.sources), data.shares) == (["HuggingFaceTB/smoltalk", "openai/gsm8k", "sharegpt"], (3, 1, 1))
    assert len(data.global_batch(0)) == 16
