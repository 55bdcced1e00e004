"""Rows of structs and of bytes, as parquet and Arrow files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.data.text.conversation import READING, WITHOUT_NULLS, read_conversation
from galore.trainer.data.text.kinds import Format
from galore.trainer.data.text.locate import DataFile
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import Corpus
from galore.trainer.recipe.schema.data import DataSection

CHAT = {"messages_field": "messages"}


def read(path: Path, format: Format, **section: Any) -> tuple[list[str], BadRows]:
    bad = BadRows("skip")
    corpus = Corpus((DataFile(path, format),), DataSection(path=str(path), **section))
    return [document.text for document in corpus.documents(bad)], bad


def write(folder: Path, rows: list[dict[str, Any]] | pa.Table) -> dict[Format, Path]:
    """The rows in every format that keeps their types; jsonl too, of rows of Python."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "x.parquet")
    with pa.ipc.new_stream(folder / "x.arrow", table.schema) as writer:
        writer.write_table(table)
    found: dict[Format, Path] = {"parquet": folder / "x.parquet", "arrow": folder / "x.arrow"}
    if isinstance(rows, list):
        (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found["jsonl"] = folder / "x.jsonl"
    return found


def called(name: str, **arguments: Any) -> dict[str, Any]:
    """A call of a function, and the schema of it among tools."""
    properties = {key: {"type": "string"} for key in arguments}
    schema = {"name": name, "parameters": {"type": "object", "properties": properties}}
    return {
        "messages": [
            {"role": "user", "content": f"do {name}"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
        ],
        "tools": [{"type": "function", "function": schema}],
    }


ROWS = [called("weather", city="Bern"), called("mail", to="Ann", parts=[{"text": "hi"}, {"file": "x"}])]


def test_calls_and_tools_of_structs_have_the_keys_of_their_own_row(tmp_path: Path) -> None:
    files = write(tmp_path, ROWS)
    found = {format: read(path, format, **CHAT) for format, path in files.items()}
    chats = [read_conversation(text) for text in found["jsonl"][0]]
    assert chats[0].messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Bern"}
    for format in ("parquet", "arrow"):
        texts, bad = found[format]
        assert [read_conversation(text) for text in texts] == chats
        assert bad.noted == {WITHOUT_NULLS: 2}
    assert found["jsonl"][1].noted == {}


def test_a_row_that_is_the_same_with_its_nulls_is_noted_as_none(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]
    for format, path in write(tmp_path, [{"messages": turns}]).items():
        (text,), bad = read(path, format, **CHAT)
        assert text == json.dumps([["user", "a"], ["assistant", "b", {"weight": 1}]])
        assert not bad.noted


def test_a_null_that_was_written_on_purpose_stays(tmp_path: Path) -> None:
    spelled = '{"to": null, "n": 1}'
    row = called("mail", to="Ann")
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = spelled
    row["tools"] = json.dumps([{"name": "mail", "default": None}])
    for format, path in write(tmp_path, [row]).items():
        (text,), bad = read(path, format, **CHAT)
        chat = read_conversation(text)
        assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"to": None, "n": 1}
        assert chat.tools == [{"name": "mail", "default": None}]
        assert bad.noted == {READING: 1}


def test_a_null_of_json_in_a_column_stays(tmp_path: Path) -> None:
    if not hasattr(pa, "json_"):
        pytest.skip("this pyarrow has no type for JSON")
    arguments = pa.array(['{"to": null}'], pa.string()).cast(pa.json_())
    calls = pa.StructArray.from_arrays([arguments, pa.nulls(1, pa.bool_())], ["arguments", "strict"])
    turns = pa.StructArray.from_arrays(
        [
            pa.array(["user", "assistant"]),
            pa.array(["a", ""]),
            pa.ListArray.from_arrays(pa.array([0, 0, 1], pa.int32()), calls),
        ],
        ["role", "content", "tool_calls"],
    )
    files = write(tmp_path, pa.table({"messages": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), turns)}))
    (text,), _ = read(files["arrow"], "arrow", **CHAT)
    assert read_conversation(text).messages[1]["tool_calls"] == [{"arguments": {"to": None}}]


PROMPTS = {"prompt_field": "q", "response_field": "r"}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
@pytest.mark.parametrize("section", [PROMPTS, {"text_field": ["q", "r"]}, {"text_field": "r"}])
def test_columns_of_bytes_are_text(tmp_path: Path, kind: pa.DataType, section: dict[str, Any]) -> None:
    columns = {"q": [b"a", b"b", b"c"], "r": ["é".encode(), b"caf\xe9 au lait", None]}
    files = write(tmp_path, pa.table({name: pa.array(each, pa.binary()).cast(kind) for name, each in columns.items()}))
    for format, path in files.items():
        texts, bad = read(path, format, **section)
        assert "é" in (texts[0] if "text_field" in section else read_conversation(texts[0]).messages[1]["content"])
        assert bad.counts.pop("invalid_utf8") == 1
        assert not {*bad.counts} - {"missing_field"}


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_messages_of_bytes_are_text_and_an_image_beside_them_is_not_read(tmp_path: Path, kind: pa.DataType) -> None:
    message = pa.struct({"role": kind, "content": kind, "image": pa.binary()})
    turns = [
        {"role": b"user", "content": b"what?", "image": b"\x89PNG"},
        {"role": b"assistant", "content": "ça".encode(), "image": None},
    ]
    raw = pa.array([turns], pa.list_(pa.struct({"role": pa.binary(), "content": pa.binary(), "image": pa.binary()})))
    for format, path in write(tmp_path, pa.table({"messages": raw.cast(pa.list_(message))})).items():
        (text,), _ = read(path, format, **CHAT)
        assert [turn["content"] for turn in read_conversation(text).messages] == ["what?", "ça"]


def test_text_that_is_none_inside_of_a_struct_is_told_with_what_it_looks_like(tmp_path: Path) -> None:
    raw = pa.array([b"user", b"assistant", b"caf\xe9 au lait, d\xe9j\xe0 vu"], pa.binary()).view(pa.string())
    turns = pa.StructArray.from_arrays([raw.take(pa.array([0, 1])), raw.take(pa.array([0, 2]))], ["role", "content"])
    column = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), turns)
    for format, path in write(tmp_path, pa.table({"messages": column})).items():
        texts, bad = read(path, format, **CHAT)
        assert not texts
        assert bad.counts == {"invalid_utf8": 1}
        assert bad.looks["invalid_utf8"]
        assert "byte 0xe9 at 3" in bad.first["invalid_utf8"]
