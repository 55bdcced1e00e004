from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats import jsonarray
from galore.trainer.data.formats.bytestream import opened
from galore.trainer.data.prepare import prepare_data
from galore.trainer.data.text.locate import DataFile
from galore.trainer.data.text.quality import BadRows
from galore.trainer.data.text.readers import Row, read_jsonl
from galore.trainer.data.text.sources import Corpus
from galore.trainer.recipe.schema.data import DataSection
from galore.trainer.recipe.schema.recipe import Recipe

ROWS: list[Any] = [{"text": "é" * 30}, {"text": 'a "quoted" ] [ one, \\ and more'}, {"body": 1}, {"text": "last"}]


def read(path: Path, content: bytes, **section: Any) -> list[Row]:
    path.write_bytes(content)
    with opened(path) as stream:
        return list(read_jsonl(stream, DataSection(path="x", **section)))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False, "indent": 1}])
def test_an_array_is_read_row_by_row(
    tmp_path: Path, chunk: int, layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonarray, "CHUNK_BYTES", chunk)
    for content in (
        json.dumps(ROWS, **layout).encode(),
        gzip.compress(b"\xef\xbb\xbf" + json.dumps(ROWS).encode() + b"\n"),
    ):
        rows = read(tmp_path / "rows.json", content)
        assert [row.element for row in rows] == [1, 2, 3, 4]
        assert [row.content for row in rows if row.element != 3] == [row["text"] for row in ROWS if "text" in row]
        assert "missing" in str(rows[2].content)


@pytest.mark.parametrize("chunk", [1, 1 << 16])
def test_a_bad_element_is_named_by_the_line_that_an_editor_shows(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonarray, "CHUNK_BYTES", chunk)
    written = json.dumps(ROWS, indent=2)
    (tmp_path / "rows.json").write_text(written)
    line = written[: written.index('"body"')].count("\n")
    bad = BadRows("skip")
    corpus = Corpus((DataFile(tmp_path / "rows.json", "jsonl"),), DataSection(path="x"))
    assert len(list(corpus.documents(bad))) == 3
    assert bad.first["missing_field"].startswith(f"{tmp_path}/rows.json:{line} (element 3): ")


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "x.json", b" [ ]\n") == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'[{"text": "a"}, {"text": ', "element 2 of the JSON array is damaged"),
        (b'[{"text": "a"}', "element 2 of the JSON array is damaged"),
        (b'[{"text": "a"} nonsense]', "element 2 of the JSON array is damaged"),
        (b'[{"text": "a"}]\n[{"text": "b"}]', "goes on after its JSON array"),
        (b"[" * 100_000, "damaged"),
        (b'[{"text": "\xe9t\xe9"}]', "not valid UTF-8"),
        (b'[{"text": "' + b"x" * 3000, "longer than 1,000 bytes"),
    ],
)
def test_what_cannot_be_read_on_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    """Everything after it would be lost without a word."""
    with pytest.raises(UserError, match=what) as caught:
        read(tmp_path / "x.json", content, max_document_bytes=1000)
    assert caught.value.where == str(tmp_path / "x.json")


def test_from_an_array_to_training_data(tmp_path: Path, documents: list[str], recipe: Callable[..., Recipe]) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"text": text} for text in documents], indent=4))
    data = prepare_data(recipe(path="rows.json"), tmp_path)
    assert sum(data.summary["documents"].values()) == len(documents)
    assert data.summary["bad_rows"] == {}


def test_white_space_is_not_held(tmp_path: Path) -> None:
    """However much of it stands between two values, as a file that is made to fill memory has it."""
    (tmp_path / "x.json").write_bytes(gzip.compress(b"[" + b" " * 30_000_000 + b'{"text": "a"}]'))
    tracemalloc.start()
    with opened(tmp_path / "x.json") as stream:
        assert [row.content for row in read_jsonl(stream, DataSection(path="x"))] == ["a"]
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 5_000_000


def test_small_values_behind_a_large_one_are_not_moved_each_time() -> None:
    large = b'["' + b"x" * 20_000_000 + b'"' + b",1" * 100_000 + b"]"
    began = time.process_time()
    assert sum(1 for _ in jsonarray.elements(io.BytesIO(large), 50_000_000, "x.json")) == 100_001
    assert time.process_time() - began < 5
