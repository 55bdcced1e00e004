"""Instruction data from files to batches: rows, masks, bad rows, the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data import prepare
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.tokens import tokenized
from galore.trainer.data.tokens.chat import OF_TOKENS
from galore.trainer.recipe.schema.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
COLUMNS = {"prompt_field": "instruction", "response_field": "output", "max_length": 192}
GOOD = [{"instruction": f"Count to {n}", "output": " ".join(map(str, range(n + 1)))} for n in range(1, 40)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def instruct(recipe: MakeRecipe, chat_tokenizer: Path) -> MakeRecipe:
    def make(**data: Any) -> Recipe:
        return recipe(**(COLUMNS | {"tokenizer": str(chat_tokenizer), "path": "chat.jsonl"} | data))

    return make


def answers(data: Any, side: str = "train") -> list[str]:
    """Every run of targets as text, sorted."""
    rows, found = getattr(data, side), list[str]()
    ids, labels = rows.read(np.arange(len(rows)))
    assert np.array_equal(ids[labels >= 0], labels[labels >= 0])
    for row in labels.tolist():
        runs = "".join("\n" if label < 0 else data.tokenizer.decode([label]) for label in row)
        found += [run for run in runs.split("\n") if run]
    return sorted(found)


def test_every_response_is_a_target_once_and_nothing_else(tmp_path: Path, instruct: MakeRecipe) -> None:
    write(tmp_path / "chat.jsonl", GOOD)
    data = prepare_data(instruct(), tmp_path)
    expected = sorted(f"{row['output']}<|im_end|>" for row in GOOD)
    assert sorted(answers(data) + answers(data, "validation")) == expected
    assert len(answers(data, "validation")) == data.summary["documents"]["validation"] > 0
    assert data.summary["targets"]["train"] == sum(len(run) - len("<|im_end|>") + 1 for run in answers(data))
    assert data.token_counts().sum() == data.summary["targets"]["train"]
    batch = data.global_batch(3)
    assert batch.input_ids.shape == batch.labels.shape == (8, 192)
    json.dumps(data.summary)


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_packing(tmp_path: Path, instruct: MakeRecipe, packing: str) -> None:
    write(tmp_path / "chat.jsonl", GOOD)
    data = prepare_data(instruct(packing=packing, validation_fraction=0), tmp_path)
    assert len(answers(data)) == len(GOOD)
    assert (len(data.train) == len(GOOD)) is (packing == "paper")  # type: ignore[attr-defined]


def test_all_formats_are_the_same_examples(tmp_path: Path, instruct: MakeRecipe) -> None:
    write(tmp_path / "chat.jsonl", GOOD)
    turns = [[("human", row["instruction"]), ("gpt", row["output"])] for row in GOOD]
    sharegpt = [{"conversations": [{"from": who, "value": said} for who, said in each]} for each in turns]
    write(tmp_path / "sharegpt.jsonl", sharegpt)
    expected = prepare_data(instruct(), tmp_path)
    messages = {"prompt_field": None, "response_field": None, "messages_field": "conversations"}
    found = [prepare_data(instruct(path="sharegpt.jsonl", **messages), tmp_path)]
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "columns.parquet")
    pq.write_table(pa.Table.from_pylist(sharegpt), tmp_path / "messages.parquet")
    found.append(prepare_data(instruct(path="columns.parquet"), tmp_path))
    found.append(prepare_data(instruct(path="messages.parquet", **messages), tmp_path))
    for data in found:
        assert data.summary["documents"] == expected.summary["documents"]
        assert np.array_equal(data.global_batch(2).labels, expected.global_batch(2).labels)


BAD = [
    ("missing_field", {"instruction": "Count"}),
    ("no_response", {"instruction": "Count", "output": " "}),
    ("wrong_type", {"instruction": "Count", "output": ["1"]}),
    ("invalid_json", '{"instruction": '),
    ("nul_bytes", {"instruction": "a\x00b", "output": "1"}),
]


def test_bad_rows_are_counted_with_their_place(tmp_path: Path, instruct: MakeRecipe) -> None:
    path = write(tmp_path / "chat.jsonl", [*GOOD, *(row for _, row in BAD)])
    data = prepare_data(instruct(validation_fraction=0), tmp_path)
    found = data.summary["bad_rows"]
    assert {kind: entry["rows"] for kind, entry in found.items()} == dict.fromkeys([kind for kind, _ in BAD], 1)
    for number, (kind, _) in enumerate(BAD, start=len(GOOD) + 1):
        assert found[kind]["first"].startswith(f"{path}:{number}: ")
    assert len(answers(data)) == len(GOOD)


@pytest.mark.parametrize(("kind", "row"), BAD)
def test_bad_rows_are_refused_with_their_place(tmp_path: Path, instruct: MakeRecipe, kind: str, row: Any) -> None:
    path = write(tmp_path / "chat.jsonl", [GOOD[0], row])
    with pytest.raises(UserError, match="bad row") as caught:
        prepare_data(instruct(on_bad_rows="error"), tmp_path)
    assert caught.value.where == f"{path}:2"


def test_a_missing_column_of_a_parquet_file(tmp_path: Path, instruct: MakeRecipe) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"instruction": ["a"], "answer": ["b"]}), tmp_path / "chat.parquet")
    with pytest.raises(UserError, match="`output` is not among instruction, answer"):
        prepare_data(instruct(path="chat.parquet"), tmp_path)


def test_a_template_that_refuses_a_row(tmp_path: Path, instruct: MakeRecipe, chat_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    refusal = "{% if messages[0]['content'] == 'Count to 3' %}{{ raise_exception('not to 3') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "picky")
    path = write(tmp_path / "chat.jsonl", GOOD)
    data = prepare_data(instruct(tokenizer="picky"), tmp_path)
    assert data.summary["bad_rows"] == {
        "refused": {"rows": 1, "first": f"{path}:3: the chat template refuses it (not to 3)"}
    }


def test_truncated_responses_are_counted(tmp_path: Path, instruct: MakeRecipe) -> None:
    write(tmp_path / "chat.jsonl", [*GOOD, {"instruction": "x" * 200, "output": "y"}])
    data = prepare_data(instruct(max_length=100, validation_fraction=0), tmp_path)
    train = data.summary["train"]
    assert train["truncated_examples"] > 5
    assert train["dropped_examples"] == 1
    assert train["examples"] == len(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"loss_on": "all"},
        {"response_field": "instruction"},
        {"input_field": "output"},
        {"tokenizer": "another template"},
        {"prompt_field": None, "response_field": None},
    ],
)
def test_the_cache_is_asked_for_what_the_settings_say(
    tmp_path: Path,
    instruct: MakeRecipe,
    chat_tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    tokenizer.chat_template = "{{ 'Chat:\n' }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "another template")
    write(tmp_path / "chat.jsonl", [row | {"text": f"{row['instruction']}: {row['output']}"} for row in GOOD])
    first = prepare_data(instruct(), tmp_path)
    other = prepare_data(instruct(**change), tmp_path)
    assert other.summary["fingerprint"] != first.summary["fingerprint"]
    monkeypatch.setattr(tokenized, "_build_examples", None)  # from now on only the cache is left
    again = prepare_data(instruct(), tmp_path)
    assert again.summary == first.summary
    assert np.array_equal(again.global_batch(1).labels, first.global_batch(1).labels)
    with pytest.raises(UserError, match="other data"):
        other.seek(first.position(), 1)


def test_a_tokenizer_trained_on_what_is_said(tmp_path: Path, instruct: MakeRecipe) -> None:
    write(tmp_path / "chat.jsonl", GOOD)
    data = prepare_data(instruct(tokenizer=None, validation_fraction=0), tmp_path)
    assert "ĠCount" not in data.tokenizer.get_vocab()
    assert "Count" in data.tokenizer.get_vocab()
    assert not any('"' in token and len(token) > 1 for token in data.tokenizer.get_vocab())
    assert answers(data) == sorted(f"{row['output']}<|endoftext|>" for row in GOOD)


def test_a_template_that_refuses_every_row_is_told_as_that(
    tmp_path: Path, instruct: MakeRecipe, chat_tokenizer: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] | round }}"
    tokenizer.save_pretrained(tmp_path / "broken")
    write(tmp_path / "chat.jsonl", GOOD)
    with pytest.raises(UserError, match=r"the chat template refuses it \(TypeError: ") as caught:
        prepare_data(instruct(tokenizer="broken"), tmp_path)
    assert "another chat template" in caught.value.fix


def test_rows_that_an_earlier_version_read_otherwise_are_other_data(
    tmp_path: Path, instruct: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of before would go on with tokens of other rows."""
    columns = {"prompt_field": None, "response_field": None, "messages_field": "messages", "validation_fraction": 0}
    for arguments, noted in (({"n": 1}, False), ('{"n": 1}', True)):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [call]}]
        write(tmp_path / "chat.jsonl", [{"messages": chat}] * 20)
        with monkeypatch.context() as patch:
            now = prepare_data(instruct(**columns), tmp_path).summary
            patch.setattr(prepare, "READING", "of before")
            before = prepare_data(instruct(**columns), tmp_path).summary
        assert ("reading" in now["noted"]) is noted
        assert (now["fingerprint"] != before["fingerprint"]) is noted


def test_rows_of_structs_that_were_read_with_nulls_are_other_data(
    tmp_path: Path, instruct: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"prompt_field": None, "response_field": None, "messages_field": "messages", "validation_fraction": 0}
    for names, noted in ((["n"], False), (["n", "m"], True)):
        calls = [[{"name": "f", "arguments": {names[n % len(names)]: 1}}] for n in range(20)]
        asked, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        rows = [{"messages": [asked, said | {"tool_calls": each}]} for each in calls]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet")
        with monkeypatch.context() as patch:
            now = prepare_data(instruct(path="chat.parquet", **columns), tmp_path).summary
            patch.setattr(prepare, "WITHOUT_NULLS", "of before")
            before = prepare_data(instruct(path="chat.parquet", **columns), tmp_path).summary
        assert now["noted"].get("without nulls", 0) == 20 * noted
        assert (now["fingerprint"] != before["fingerprint"]) is noted


def test_answers_of_added_tokens_are_other_data_than_before(
    tmp_path: Path, instruct: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer, noted in (("b", False), ("<yes>", True)):
        write(tmp_path / "chat.jsonl", [{"instruction": "a", "output": answer}] * 20)
        recipe = instruct(validation_fraction=0)
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"new_tokens": ["<yes>", "<no>"]})})
        with monkeypatch.context() as patch:
            now = prepare_data(recipe, tmp_path).summary
            patch.setattr(prepare, "OF_TOKENS", "of before")
            before = prepare_data(recipe, tmp_path).summary
        assert now["documents"]["train"] == 20
        assert (OF_TOKENS in now["noted"]) is noted
        assert (now["fingerprint"] != before["fingerprint"]) is noted


@pytest.mark.parametrize("packing", ["packed", "paper"])
def test_prompts_that_fill_every_row_are_told_as_that(tmp_path: Path, instruct: MakeRecipe, packing: str) -> None:
    """More text would not help, nor would another share."""
    write(tmp_path / "chat.jsonl", [{"instruction": f"Count to {n} " * 30, "output": "no"} for n in range(40)])
    expected = r"data.max_length: no token to learn in the first 64 of \d+ examples, which is all of them"
    with pytest.raises(UserError, match=expected):
        prepare_data(instruct(packing=packing, max_length=64), tmp_path)
