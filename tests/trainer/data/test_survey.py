from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from galore.trainer.checkpoint.manifest import NAME as MANIFEST
from galore.trainer.checkpoint.sealed import STAMP, seal
from galore.trainer.common.errors import UserError
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.survey import COUNTED, Lengths, survey
from galore.trainer.data.tokens.chat import UNREAD
from galore.trainer.recipe.load import load_recipe
from galore.trainer.recipe.schema.recipe import Recipe

LONG, SHORT = 40, 9


@pytest.fixture
def chats(tmp_path: Path, chat_tokenizer: Path) -> Recipe:
    """Nine conversations of which one is long, on a tokenizer of one token a byte."""
    said = ["yes"] * SHORT + ["no " * LONG]
    rows = [
        [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": each}] for n, each in enumerate(said)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in rows))
    data = {"path": "chat.jsonl", "messages_field": "messages", "tokenizer": str(chat_tokenizer), "max_length": 64}
    data |= {"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")}
    return Recipe.model_validate({"data": data, "train": {"max_steps": 1}})


def with_data(recipe: Recipe, **settings: Any) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=settings)})


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_conversations_are_measured_as_they_are_fed(
    chats: Recipe, tmp_path: Path, chat_tokenizer: Path, packing: str
) -> None:
    recipe = with_data(chats, packing=packing)
    found, data = survey(recipe, tmp_path), prepare_data(recipe, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(chat_tokenizer)
    short = len(tokenizer("<|im_start|>user\n0<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n")["input_ids"])
    assert found.lengths.counts[short] == SHORT
    assert (found.lengths.longest, found.lengths.quantile(0.5)) == (short - 3 + 3 * LONG, short)
    assert (found.whole, found.cut_examples, found.cut_tokens) == (SHORT + 1, 1, short - 3 + 3 * LONG - 64)
    assert (found.rows, found.used) == (data.num_sequences, SHORT * short + 64)
    fed = data.train.read(np.arange(found.rows))  # type: ignore[union-attr]
    assert found.efficiency == pytest.approx(found.used / fed[0].size)
    assert found.lengths.histogram(64) == [(16, 31, SHORT), (32, 63, 0), (64, 64, 0), (65, 127, 0), (128, 255, 1)]


def test_the_second_time_it_is_there(chats: Recipe, tmp_path: Path) -> None:
    first, again = (survey(chats, tmp_path) for _ in range(2))
    assert (first.made, again.made) == (True, False)
    assert first.cache == again.cache
    assert first.cache is not None
    assert (first.cache / "train.tokens").is_file()
    assert json.loads(json.dumps(first.as_json())) == {**again.as_json(), "made": True}
    assert not survey(with_data(chats, max_length=32), tmp_path).made


def test_what_was_kept_before_marks_were_read_is_made_anew(chats: Recipe, tmp_path: Path) -> None:
    """Messages of `weight: 0` are targets in it, which the notes of that time tell."""
    kept = survey(chats, tmp_path).cache
    assert kept is not None
    summary = json.loads((kept / "summary.json").read_text()) | {"noted": {f"{UNREAD}weight": 1}}
    (kept / "summary.json").write_text(json.dumps(summary))
    for name in (MANIFEST, STAMP):
        (kept / name).unlink(missing_ok=True)
    seal(kept, {})
    again = survey(chats, tmp_path)
    assert again.made
    assert "messages with train or weight are targets in it" in again.notes[0]


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_text(tmp_path: Path, chat_tokenizer: Path, packing: str) -> None:
    texts = ["a" * 10, "b" * 50, "c" * 20]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    data = {"path": "text.jsonl", "tokenizer": str(chat_tokenizer), "max_length": 16, "packing": packing}
    data |= {"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")}
    found = survey(Recipe.model_validate({"data": data, "train": {"max_steps": 1}}), tmp_path)
    assert (found.lengths.total, found.lengths.longest) == (83, 51)  # with EOS
    if packing == "packed":
        assert (found.rows, found.used, found.cut_examples, found.cut_tokens, found.efficiency) == (5, 80, 0, 3, 1.0)
    else:
        assert (found.rows, found.used, found.cut_examples, found.cut_tokens) == (3, 10 + 16 + 16, 2, 34 + 4)
        assert found.efficiency == pytest.approx(42 / 48)


def test_tokens_with_labels_are_examples_which_may_be_cut(tmp_path: Path, chat_tokenizer: Path) -> None:
    rows = [{"ids": list(range(5, 5 + size)), "labels": list(range(5, 5 + size))} for size in (10, 40, 20)]
    (tmp_path / "tokens.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    data = {"path": "tokens.jsonl", "tokens_field": "ids", "labels_field": "labels", "tokenizer": str(chat_tokenizer)}
    data |= {"max_length": 16, "validation_fraction": 0, "cache_dir": str(tmp_path / "cache")}
    found = survey(Recipe.model_validate({"data": data, "train": {"max_steps": 1}}), tmp_path)
    assert (found.whole, found.cut_examples, found.cut_tokens) == (3, 2, 24 + 4)


def test_of_a_mixture_only_what_is_to_stay_whole_counts(chats: Recipe, tmp_path: Path) -> None:
    """Packed text among conversations goes on in the next row, however long it is."""
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "a" * 500}) + "\n")
    sources = [{"path": "text.jsonl"}, {"path": "chat.jsonl", "messages_field": "messages"}]
    data = chats.data.model_dump() | {"path": None, "messages_field": None, "sources": sources}
    found = survey(Recipe.model_validate({"data": data, "train": {"max_steps": 1}}), tmp_path)
    assert int(found.lengths.counts.sum()) == 1 + SHORT + 1
    assert (found.whole, found.cut_examples) == (SHORT + 1, 1)
    assert found.cache == tmp_path / "cache" / "tokens"
    assert [(folder / "train.tokens").is_file() for folder in found.folders] == [True, True]


def test_of_a_mixture_with_a_stream_the_files_are_prepared(chats: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write = "".join(json.dumps({"text": f"text {number} " * 9}) + "\n" for number in range(30))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_text(write)
    sources = [{"path": "chat.jsonl", "messages_field": "messages"}, {"name": "set", "validation_fraction": 0.3}]
    data = chats.data.model_dump() | {"path": None, "messages_field": None, "sources": sources}
    found = survey(Recipe.model_validate({"data": data, "train": {"max_steps": 1}}), tmp_path)
    alone = survey(chats, tmp_path)
    assert found.as_json()["lengths"] == alone.as_json()["lengths"]
    assert (found.rows, found.used, found.whole, found.folders) == (alone.rows, alone.used, alone.whole, alone.folders)
    assert "set is streamed and tokenized while a run goes on: nothing of it is prepared or counted here" in found.notes
    data |= {"sources": sources[1:]}
    with pytest.raises(UserError, match=r"data\.sources: data of the hub are streamed"):
        survey(Recipe.model_validate({"data": data, "train": {"max_steps": 1}}), tmp_path)


def test_a_task_of_glue_keeps_nothing(tiny_roberta: Path, glue_folder: Path) -> None:
    where = [f"model.name_or_path={tiny_roberta}", f"data.path={glue_folder}", "data.task=sst2", "data.max_length=9"]
    found = survey(load_recipe("roberta-glue", where).recipe, Path())
    assert (found.rows, found.cache, found.cut_tokens) == (24, None, None)
    assert found.used == found.lengths.total
    assert found.cut_examples > 0


def test_a_stream_is_one_sentence() -> None:
    data = {"source": "hub", "path": "allenai/c4"}
    recipe = Recipe.model_validate({"data": data, "train": {"max_steps": 1}})
    with pytest.raises(UserError, match="there is nothing to prepare"):
        survey(recipe, Path())


def test_a_data_set_that_is_read_whole_comes_to_what_its_files_do(
    chats: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "downloaded"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_bytes((tmp_path / "chat.jsonl").read_bytes())
    data = chats.data.model_dump() | {"source": "hub", "path": "set", "validation_split": None}
    found = survey(Recipe.model_validate({"data": data, "train": {"num_train_epochs": 1}}), tmp_path)
    alone = survey(chats, tmp_path)
    assert found.as_json()["lengths"] == alone.as_json()["lengths"]
    assert (found.rows, found.used, found.whole) == (alone.rows, alone.used, alone.whole)
    assert found.cache is not None


@pytest.mark.parametrize("max_length", [7, 8, COUNTED - 1, COUNTED, 10 * COUNTED])
def test_a_histogram_holds_every_document_once_and_ends_a_class_at_max_length(max_length: int) -> None:
    lengths = Lengths.of(iter([np.arange(1, 300), np.array([COUNTED - 1, COUNTED, 3 * COUNTED])]))
    classes = lengths.histogram(max_length)
    assert sum(documents for *_, documents in classes) == 302
    assert all(one[1] + 1 == other[0] for one, other in pairwise(classes))
    assert (classes[0][0], classes[-1][1]) == (1, 3 * COUNTED)
    assert max_length >= COUNTED or max_length in [high for _, high, _ in classes]
    assert Lengths.of(iter([])).histogram(max_length) == []
