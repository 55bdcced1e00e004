from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.text.conversation import read_conversation
from galore.trainer.data.text.hub import HubSplit
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import training_corpus
from galore.trainer.recipe.schema.data import DataSection


class BreaksOff:
    """A streamed data set whose third row does not come."""

    def __init__(self, error: Exception) -> None:
        self.error, self.row = error, 0

    def __iter__(self) -> Iterator[dict[str, object]]:
        for self.row in (1, 2):
            yield {"text": f"row {self.row}"}
        raise self.error

    def state_dict(self) -> dict[str, int]:
        return {"row": self.row}


@pytest.mark.parametrize(
    ("error", "outcome", "message"),
    [
        (ConnectionError("reset by peer"), RunFailed, "broke off.*reset by peer[\\s\\S]*--resume"),
        (TimeoutError(), RunFailed, "broke off.*TimeoutError"),
        (type("HTTPError", (Exception,), {})("503"), RunFailed, "broke off.*503"),
        (ValueError("bad block\nin shard"), UserError, "a shard cannot be read.*bad block"),
    ],
)
def test_a_stream_that_breaks_off(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: type[UserError], message: str
) -> None:
    monkeypatch.setattr(HubSplit, "open", lambda split: BreaksOff(error))
    texts = HubSplit("c4", "en", "train", "text", 100).texts(None, BadRows("skip"))
    assert [next(texts), next(texts)] == [("row 1", {"row": 1}), ("row 2", {"row": 2})]
    with pytest.raises(outcome, match=message) as caught:
        next(texts)
    assert type(caught.value) is outcome
    assert caught.value.where == "c4 [train]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two splits; what is made of it is kept beside it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "downloaded"))
    (tmp_path / "set").mkdir()
    for split, rows in {"train": 20, "validation": 3}.items():
        lines = (json.dumps({"text": f"{split} {number}", "n": number}) + "\n" for number in range(rows))
        (tmp_path / f"set/{split}.jsonl").write_text("".join(lines))
    return tmp_path


def split_of(folder: Path, **settings: Any) -> HubSplit:
    return HubSplit.of(DataSection.model_validate({"source": "hub", "path": "set"} | settings), folder)


def test_a_split_is_a_file_which_is_made_once(folder: Path) -> None:
    (one,) = split_of(folder).files()
    made = one.stat().st_mtime_ns
    assert (one.suffix, split_of(folder).files()) == (".arrow", (one,))
    assert one.stat().st_mtime_ns == made
    assert len(split_of(folder, split="train+validation").files()) == 2


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        ({"text_field": "body"}, "data.text_field", "`body` is not among the columns text, n"),
        ({"prompt_field": "ask", "response_field": "n"}, "data.prompt_field", "`ask` is not among"),
        ({"split": "test"}, "split: test", 'Unknown split "test"'),
        ({"path": ["a/b", "c/d"]}, "data.path", "names several data sets"),
        ({"validation_path": "held.txt"}, "data.validation_path", "is for local files"),
    ],
)
def test_what_cannot_be_downloaded_says_why(folder: Path, settings: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        split_of(folder, **settings).files()
    assert where in caught.value.where


def test_a_disk_that_fills_up_is_no_wrong_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def full(*arguments: Any, **how: Any) -> None:
        what = "An error occurred while generating the dataset"
        raise datasets.exceptions.DatasetGenerationError(what) from OSError(number, "why it is")

    monkeypatch.setattr(datasets, "load_dataset", full)
    number = errno.ENOSPC
    with pytest.raises(RunFailed, match="no space left for the data set"):
        split_of(folder).files()
    number = errno.EIO
    with pytest.raises(UserError, match=r"cannot be opened \(.*why it is\)"):
        split_of(folder).files()


def test_a_folder_that_keeps_nothing_is_no_wrong_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (folder / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "file/below"))
    with pytest.raises(RunFailed, match=r"cannot keep the data set[\s\S]*set \$HF_HOME"):
        split_of(folder).files()


def test_rows_of_many_shapes_are_read_whole_as_they_are_streamed(folder: Path) -> None:
    """`datasets` keeps what differs from row to row as JSON in a column, or inside of one."""
    told = [
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": "Ho", "weight": 1}, {"role": "assistant", "content": "Hey", "tool_calls": []}],
        [{"role": "user", "content": "Ha"}, {"role": "assistant", "content": "Well"}],
    ]
    texts: list[Any] = ["plain", {"not": "text"}, "good"]
    rows = [{"text": text, "messages": messages} for text, messages in zip(texts, told, strict=True)]
    (folder / "set/validation.jsonl").unlink()
    (folder / "set/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for settings in ({}, {"messages_field": "messages"}):
        bad = BadRows("skip"), BadRows("skip")
        section = DataSection.model_validate({"source": "hub", "path": "set", "validation_split": None} | settings)
        streamed = [text for text, _ in HubSplit.of(section, folder).texts(None, bad[0])]
        whole = [document.text for document in training_corpus(section, folder).documents(bad[1])]
        assert whole == streamed
        assert len(whole) == (3 if settings else 2)
        assert {kind: each["rows"] for kind, each in bad[0].summary.items()} == {
            kind: each["rows"] for kind, each in bad[1].summary.items()
        }


def parquet(folder: Path, table: Any) -> None:
    for path in (folder / "set").iterdir():
        path.unlink()
    pq.write_table(table, folder / "set/train.parquet", row_group_size=7)


def as_strings(cells: list[bytes | None]) -> Any:
    return pa.array(cells, pa.binary()).view(pa.string())


def both_ways(folder: Path, **settings: Any) -> tuple[list[str], dict[str, int]]:
    """Good texts and bad rows of a split that is streamed, which are those of the split that is fetched."""
    bad = BadRows("skip"), BadRows("skip")
    section = DataSection.model_validate({"source": "hub", "path": "set", "validation_split": None} | settings)
    streamed = [text for text, _ in HubSplit.of(section, folder).texts(None, bad[0])]
    assert [document.text for document in training_corpus(section, folder).documents(bad[1])] == streamed
    assert bad[0].counts == bad[1].counts
    return streamed, dict(bad[0].counts)


@pytest.mark.parametrize(
    "settings",
    [
        {"text_field": "a"},
        {"text_field": ["q", "a"]},
        {"prompt_field": "q", "response_field": "a"},
        {"messages_field": "messages"},
    ],
)
def test_a_streamed_row_that_is_not_utf_8_is_a_bad_row(folder: Path, settings: dict[str, Any]) -> None:
    answers = [f"answer {n}".encode() if n != 12 else b"caf\xe9 au lait" for n in range(20)]
    said = [each for answer in answers for each in (b"ask", answer)]
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * 20), as_strings(said)], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(range(0, 41, 2), pa.int32()), turns)
    parquet(folder, pa.table({"q": ["ask"] * 20, "a": as_strings(answers), "messages": messages}))
    texts, bad = both_ways(folder, **settings)
    assert len(texts) == 19
    assert bad == {"invalid_utf8": 1}
    section = DataSection.model_validate({"source": "hub", "path": "set", "validation_split": None} | settings)
    with pytest.raises(UserError, match="row 13 of this reading: bad row: not valid UTF-8") as caught:
        list(HubSplit.of(section, folder).texts(None, BadRows("error")))
    assert "on_bad_rows" in str(caught.value)


def test_a_stream_goes_on_from_any_row_of_any_batch(folder: Path) -> None:
    parquet(folder, pa.table({"text": as_strings([b"\xff" if n % 5 == 4 else b"row %d" % n for n in range(20)])}))
    split, good = split_of(folder), [f"row {n}" for n in range(20) if n % 5 != 4]
    assert [text for text, _ in split.texts(None, BadRows("skip"))] == good
    for step in (1, 3):
        found, state = list[str](), None
        while rows := list(itertools.islice(split.texts(state, BadRows("skip")), step)):
            found += [text for text, _ in rows]
            state = json.loads(json.dumps(rows[-1][1]))
        assert found == good


def test_a_position_is_that_of_a_stream_without_tables(folder: Path) -> None:
    import datasets

    parquet(folder, pa.table({"text": [f"row {n}" for n in range(20)]}))
    plain = datasets.load_dataset(str(folder / "set"), split="train", streaming=True).select_columns(["text"])
    rows = iter(plain)
    for _ in range(9):
        next(rows)
    rest = split_of(folder).texts(plain.state_dict(), BadRows("skip"))
    assert [text for text, _ in rest] == [f"row {n}" for n in range(9, 20)]


def test_streamed_structs_lose_the_nulls_of_other_rows(folder: Path) -> None:
    rows = []
    for arguments in ({"city": "Bern"}, {"to": "Ann", "body": "hi"}):
        said = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]}
        rows.append({"messages": [{"role": "user", "content": "a"}, said]})
    parquet(folder, pa.Table.from_pylist(rows))
    texts, _ = both_ways(folder, messages_field="messages")
    found = [read_conversation(text).messages[1]["tool_calls"][0]["arguments"] for text in texts]
    assert found == [{"city": "Bern"}, {"to": "Ann", "body": "hi"}]


def test_json_in_a_column_that_is_none_is_a_bad_row(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    if not hasattr(arrow, "json_"):
        pytest.skip("this pyarrow has no type for JSON")
    cells = [
        json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        "{not",
        "[" * 100_000,
    ]
    numbers = "1" * 5000
    kind = arrow.json_()
    table = arrow.table({"messages": arrow.array([*cells, numbers], arrow.string()).cast(kind)})
    with arrow.ipc.new_stream(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    for settings in ({"messages_field": "messages"}, {"text_field": "messages"}):
        bad = BadRows("skip")
        section = DataSection.model_validate({"path": "rows.arrow"} | settings)
        good = list(training_corpus(section, tmp_path).documents(bad))
        assert len(good) == ("messages_field" in settings)
        assert bad.summary["invalid_json"]["rows"] == 3
