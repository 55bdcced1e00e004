from __future__ import annotations

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import opened
from galore.trainer.data.text.columns import read_parquet
from galore.trainer.data.text.conversation import read_conversation
from galore.trainer.data.text.kinds import Format
from galore.trainer.data.text.locate import DataFile
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.sources import Corpus
from galore.trainer.recipe.schema.data import DataSection


def read(path: Path, format: Format, **section: Any) -> tuple[list[str], dict[str, int]]:
    """Good texts, and bad rows by kind."""
    bad = BadRows(section.get("on_bad_rows", "skip"))
    corpus = Corpus((DataFile(path, format),), DataSection(path=str(path), **section))
    texts = [document.text for document in corpus.documents(bad)]
    return texts, dict(bad.counts)


BAD_LINES = {
    "invalid_utf8": [b'{"text": "caf\xe9"}', rb'{"text": "\ud800"}', b'{"text": "\xed\xa0\x80"}'],
    "invalid_json": [b"{", b"[" * 100_000, b'{"text": "a"} x', b"1" * 5000, b'{"text": "a\tb"}'],
    "missing_field": [b"{}", b'{"txt": "a"}', b'{"text": null}'],
    "wrong_type": [b'{"text": 3}', b'{"text": ["a"]}', b"[]", b'"text"', b"null"],
    "empty": [b'{"text": ""}', b'{"text": " \\n\\t"}', b"", b"  "],
    "nul_bytes": [rb'{"text": "a\u0000b"}'],
    "oversized": [b'{"text": "' + b"x" * 200_000 + b'"}'],
}


@pytest.mark.parametrize("zipped", [False, True])
def test_bad_jsonl_rows_are_counted_by_kind(tmp_path: Path, zipped: bool) -> None:
    rows = [line for lines in BAD_LINES.values() for bad in lines for line in (bad, b'{"text": "good"}')]
    path = tmp_path / ("rows.jsonl.gz" if zipped else "rows.jsonl")
    data = b"\n".join(rows)
    path.write_bytes(gzip.compress(data) if zipped else data)
    texts, counts = read(path, "jsonl", max_document_bytes=150_000)
    assert counts == {kind: len(lines) for kind, lines in BAD_LINES.items()}
    assert texts == ["good"] * (len(rows) // 2)


@pytest.mark.parametrize("kind", list(BAD_LINES))
def test_the_first_bad_row_is_refused_by_file_and_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + BAD_LINES[kind][0] + b"\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:2: bad row"):
        read(path, "jsonl", max_document_bytes=150_000, on_bad_rows="error")


def test_a_row_just_as_long_as_allowed_is_good(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("é" * 50 + "\n" + "é" * 50 + "x\n")
    assert read(path, "txt", txt_document="line", max_document_bytes=100) == (["é" * 50], {"oversized": 1})


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [("line", ["a", "b", "c", "d"]), ("paragraph", ["a\nb", "c\nd"]), ("file", ["a\r\nb\n\n \nc\nd"])],
)
def test_what_a_txt_document_is(tmp_path: Path, granularity: str, expected: list[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"a\r\nb\n\n \nc\nd")
    assert read(path, "txt", txt_document=granularity)[0] == expected


@pytest.mark.parametrize("granularity", ["file", "paragraph", "line"])
def test_a_mark_of_utf8_at_the_start_is_no_letter_of_a_document(tmp_path: Path, granularity: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"a" * 100)
    assert read(path, "txt", txt_document=granularity, max_document_bytes=100) == (["a" * 100], {})
    path.write_bytes(b"\xef\xbb\xbf" + b"a" * 101)
    assert read(path, "txt", txt_document=granularity, max_document_bytes=100) == ([], {"oversized": 1})


def test_an_oversized_paragraph_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("short\n\n" + "twelve bytes\n" * 20 + "\n" + "x" * 500 + "\nrest\n\nlast\n")
    assert read(path, "txt", max_document_bytes=100) == (["short", "last"], {"oversized": 2})


def test_bad_txt_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\n\ncaf\xe9\n\nnul\x00\n\n\xff\xfeh\x00i\x00\n")
    assert read(path, "txt") == (["good"], {"invalid_utf8": 2, "nul_bytes": 1})
    assert read(path, "txt", txt_document="file") == ([], {"invalid_utf8": 1})


def test_bad_parquet_rows_are_counted(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9", None, b"", b"a\x00b", b"x" * 200, "gut é".encode()], pa.binary())
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": raw.view(pa.string()), "other": range(7)}), path, row_group_size=3)
    texts, counts = read(path, "parquet", max_document_bytes=100)
    assert texts == ["good", "gut é"]
    assert counts == {"invalid_utf8": 1, "missing_field": 1, "empty": 1, "nul_bytes": 1, "oversized": 1}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_types(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array(["one", "two"], pa.string()).cast(kind)}), path)
    assert read(path, "parquet") == (["one", "two"], {})


def test_a_parquet_column_is_told_from_the_field_of_a_struct(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [{"b": "of a struct"}], "a.b": ["a column"]}), path)
    assert read(path, "parquet", text_field="a.b") == (["a column"], {})


def test_parquet_without_the_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": ["a"] * 300, "n": range(300)}), path)
    assert read(path, "parquet") == ([], {"missing_field": 300})
    assert read(path, "parquet", text_field="n") == ([], {"wrong_type": 300})
    with pytest.raises(UserError, match=r"rows\.parquet:1: bad row: .*not among body, n"):
        read(path, "parquet", on_bad_rows="error")


def test_gzipped_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    zipped = tmp_path / "rows.parquet.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read(zipped, "parquet")[0] == ["one", "two"]


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_damaged_parquet_is_a_user_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"rows\.parquet: (not a readable parquet file|cannot be read)"):
        read(path, "parquet")


def arrow_stream(path: Path, table: pa.Table, batch: int) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


def test_arrow_rows_are_read_and_counted_as_those_of_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9", None, b"", b"gut"] * 200, pa.binary())
    table, path = pa.table({"other": range(1000), "text": raw.view(pa.string())}), tmp_path / "rows.arrow"
    arrow_stream(path, table, batch=300)
    counts = {"invalid_utf8": 200, "missing_field": 200, "empty": 200}
    assert read(path, "arrow") == (["good", "gut"] * 200, counts)
    assert read(path, "arrow", text_field="other") == ([], {"wrong_type": 1000})
    assert read(path, "arrow", text_field="no") == ([], {"missing_field": 1000})
    with pytest.raises(UserError, match=r"rows\.arrow:2: bad row"):
        read(path, "arrow", on_bad_rows="error")


def test_a_stream_is_read_to_its_end_and_nothing_follows(tmp_path: Path) -> None:
    """Where it is cut between two batches, or another one follows, the reader sees nothing wrong."""
    path, packed = tmp_path / "rows.arrow", tmp_path / "rows.arrow.gz"
    arrow_stream(path, pa.table({"text": ["one", "two"] * 50}), batch=10)
    whole = path.read_bytes()
    assert len(read(path, "arrow")[0]) == 100
    packed.write_bytes(gzip.compress(whole))
    assert len(read(packed, "arrow")[0]) == 100
    batch = (len(whole) - whole.index(b"one")) // 10
    for cut in (8, 8 + batch, 8 + 2 * batch):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match=r"rows\.arrow: (is cut short|cannot be read|not a readable)"):
            read(path, "arrow")
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match="goes on after the end of its Arrow stream"):
        read(path, "arrow")


def test_a_column_of_a_dictionary_is_not_multiplied(tmp_path: Path) -> None:
    """Large texts of few values: decoded together they are more than an array of texts can hold."""
    path, texts = tmp_path / "rows.parquet", pa.array(["x" * 1_000_000, "y"])
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0, 1, None] * 100), texts)}), path)
    tracemalloc.start()
    found = Counter(len(text) for text in read(path, "parquet", max_document_bytes=10)[0])
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {1: 100}
    assert held < 20_000_000


def test_conversations_of_an_arrow_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    arrow_stream(path, pa.table({"q": ["a", "b"], "n": [1, 2], "r": ["x", "y"]}), batch=1)
    texts, counts = read(path, "arrow", prompt_field="q", response_field="r")
    assert not counts
    assert [read_conversation(text).messages[-1]["content"] for text in texts] == ["x", "y"]


@pytest.mark.parametrize("cut", [0, 5, 100, -40])
def test_a_damaged_arrow_stream_is_a_user_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.arrow"
    arrow_stream(path, pa.table({"text": ["one", "two"] * 50}), batch=10)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"rows\.arrow: (not a readable Arrow file|cannot be read)"):
        read(path, "arrow")


def test_consumed_bytes_grow_to_the_size_of_all_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(5000)))
    files = tuple(DataFile(tmp_path / name, "jsonl") for name in ("a.jsonl", "b.jsonl"))
    corpus = Corpus(files, DataSection(path="x"))
    consumed = [document.consumed for document in corpus.documents(BadRows("skip"))]
    assert consumed == sorted(consumed)
    assert consumed[-1] == corpus.total_bytes


@pytest.mark.parametrize("fields", [{}, {"prompt_field": "text", "response_field": "b"}])
def test_two_columns_of_one_name(tmp_path: Path, fields: dict[str, Any]) -> None:
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["text", "text", "b"]), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", "parquet", **fields) == ([], {"wrong_type": 1})
    with pytest.raises(UserError, match="`text` is the name of 2 columns"):
        read(tmp_path / "x.parquet", "parquet", on_bad_rows="error", **fields)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_message_about_columns_is_short_however_many_there_are(tmp_path: Path, format: Format) -> None:
    row = {f"column{i}": 1 for i in range(20_000)}
    path = tmp_path / f"x.{format}"
    if format == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.table({name: [1] for name in row}), path)
    bad = BadRows("skip")
    list(Corpus((DataFile(path, format),), DataSection(path=str(path))).documents(bad))
    (first,) = (told["first"] for told in bad.summary.values())
    assert "`text` is not among column0, column1," in first
    assert len(first) < 600


def test_tools_and_calls_of_a_parquet_file(tmp_path: Path) -> None:
    """Its columns fill every message with the keys of all, and hold tools as text."""
    calls = [{"function": {"name": "f"}}]
    messages = [
        {"role": "user", "content": "a", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "c", "tool_calls": []},
    ]
    table = pa.table({"messages": [messages], "tools": ['[{"name": "f"}]'], "id": [7]})
    pq.write_table(table, tmp_path / "chat.parquet")
    with opened(tmp_path / "chat.parquet") as stream:
        (row,) = read_parquet(stream, DataSection(path="x", messages_field="messages"))
    assert read_conversation(str(row.content)) == (
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "c"},
        ],
        [{"name": "f"}],
    )


TABLE = b"""id,title,text
1,One,"first, ""quoted""
of two lines"
2,Two,second

3,Three
4,Four,fourth,extra
5,Five,"open" here
6,Six,caf\xe9
7,Seven,
8,Eight,caf\xc3\xa9
"""


@pytest.mark.parametrize(("format", "apart"), [("csv", b","), ("tsv", b"\t"), ("csv", b";")])
def test_a_table_is_read_by_its_first_line_and_its_bad_rows_are_counted(
    tmp_path: Path, format: Format, apart: bytes
) -> None:
    (tmp_path / "x").write_bytes(TABLE.replace(b",", apart))
    more = {"delimiter": ";"} if apart == b";" else {}
    texts, counts = read(tmp_path / "x", format, **more)
    assert texts == [f'first{apart.decode()} "quoted"\nof two lines', "second", "café"]
    assert counts == {"empty": 2, "missing_field": 1, "invalid_csv": 2, "invalid_utf8": 1}


def test_the_first_bad_row_of_a_table_is_refused_by_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'text\n"a\nb"\n"c\nd" e\n')
    with pytest.raises(UserError, match=r"x\.csv:4: bad row: not a row of the table"):
        read(tmp_path / "x.csv", "csv", on_bad_rows="error")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"title;text\na;b\n", r"has ';' and no ',' in it: title;text"),
        (b"\n1,2\n", r"does not name the columns \(it is empty\)"),
        (b'"text\n1,2\n', r"does not name the columns \(unexpected end"),
    ],
)
def test_a_table_without_names_of_columns_is_refused(tmp_path: Path, table: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(table)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "x.csv", "csv")
    assert caught.value.where == str(tmp_path / "x.csv")
    assert caught.value.fix in ("set data.delimiter: ';'", "put their names there")


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("csv", b"text,n\ra,1\rb,2\r"),
        ("csv", b"\xef\xbb\xbftext,n\r" + b"a long one,1\r" * 900),
        ("tsv", b"text\tn\ra\t1\rb\t2"),
        ("jsonl", b'{"text": "a"}\r{"text": "b"}\r'),
        ("jsonl", b'{"text": "a"}\r{"text": "b"}'),
        ("jsonl", b'{"text": "a long one"}\r' * 900),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_lines_that_end_in_cr_alone_are_told_as_that(tmp_path: Path, format: Format, data: bytes, zipped: bool) -> None:
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(UserError, match="its lines end in carriage returns") as caught:
        read(path, format, max_document_bytes=10_000)
    assert caught.value.where == str(path)
    assert r"tr '\r' '\n'" in caught.value.fix
    path = tmp_path / "mended"
    path.write_bytes(data.replace(b"\r", b"\n"))
    assert len(read(path, format)[0]) >= 2


def test_a_carriage_return_in_a_row_costs_that_row(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'text,n\r\na,1\rb,2\n"c\rd",3\n')
    assert read(tmp_path / "x.csv", "csv") == (["c\rd"], {"invalid_csv": 1})
    with pytest.raises(UserError, match=r"not a row of the table \(a carriage return in a field without quotes\)"):
        read(tmp_path / "x.csv", "csv", on_bad_rows="error")
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a\rb"}\n{"text": "c"}\r\r\n{"text": "d"}\r\n')
    assert read(tmp_path / "x.jsonl", "jsonl") == (["c", "d"], {"invalid_json": 1})


@pytest.mark.parametrize("said", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("table", ["text,n\none,1\n", '"text",n\n"one, two",1\n'])
def test_a_table_in_utf_16_is_told_the_key_that_reads_it(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "x.csv").write_bytes(table.encode(said))
    with pytest.raises(UserError, match=f"the table is {said}, and is read as utf-8") as caught:
        read(tmp_path / "x.csv", "csv")
    assert f"data.encoding={said} reads it" in caught.value.fix
    texts, _ = read(tmp_path / "x.csv", "csv", encoding=said)
    assert texts in (["one"], ["one, two"])


def test_two_columns_of_a_table_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"text,text,n,n\na,b,1,2\n")
    assert read(tmp_path / "x.csv", "csv") == ([], {"wrong_type": 1})


ARTICLES = [{"title": "One", "body": "first"}, {"title": None, "body": "second"}, {"title": " ", "body": ""}]


def test_several_columns_are_joined_where_they_are_not_empty(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ARTICLES, {"body": "x"}]))
    pq.write_table(pa.Table.from_pylist(ARTICLES), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text('title,body\nOne,first\n,second\n" ",\n')
    names: list[tuple[str, Format]] = [("x.jsonl", "jsonl"), ("x.parquet", "parquet"), ("x.csv", "csv")]
    for name, format in names:
        missing = {"missing_field": 1} if format == "jsonl" else {}
        found = read(tmp_path / name, format, text_field=["title", "body"])
        assert found == (["One\n\nfirst", "second"], {"empty": 1} | missing)
    assert read(tmp_path / "x.parquet", "parquet", text_field=["title", "text"]) == ([], {"missing_field": 3})


@pytest.mark.parametrize("end", ["", ".gz"])
def test_an_arrow_file_with_an_index_is_read_as_a_stream_is(tmp_path: Path, end: str) -> None:
    table, sink = pa.table({"text": [f"row {n}" for n in range(600)]}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=250)
    data = bytes(sink.getvalue())
    (tmp_path / f"x.feather{end}").write_bytes(gzip.compress(data) if end else data)
    assert read(tmp_path / f"x.feather{end}", "arrow") == ([f"row {n}" for n in range(600)], {})
    (tmp_path / "half.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"half\.arrow: not a readable Arrow file"):
        read(tmp_path / "half.arrow", "arrow")
