"""Rows of txt, jsonl and parquet files: text, or the reason there is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from galore.trainer.data.bytestream import ByteStream, Line, bounded_lines
from galore.trainer.data.extras import require
from galore.trainer.data.quality import BadRow, decode
from galore.trainer.errors import UserError
from galore.trainer.recipe.schema import DataSection

PARQUET_BATCH_ROWS = 256


class Row(NamedTuple):
    number: int  # line for text formats, row for parquet; from 1
    content: str | BadRow
    consumed: int  # bytes of the file read so far, as stored on disk


Reader = Callable[[ByteStream, DataSection], Iterator[Row]]


def attempt(parse: Callable[[], str]) -> str | BadRow:
    """What `parse` returns, or the BadRow it raises."""
    try:
        return parse()
    except BadRow as bad:
        return bad


def text_of_bytes(raw: bytes | None) -> str | BadRow:
    return BadRow("oversized") if raw is None else attempt(lambda: decode(raw))


def read_txt(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """One document per file, per paragraph (blank lines part them) or per line, as `txt_document` says."""
    limit = section.max_document_bytes
    if section.txt_document == "file":
        whole = stream.plain.read(limit + 1)
        yield Row(1, text_of_bytes(whole if len(whole) <= limit else None), stream.consumed())
        return
    lines = bounded_lines(stream.plain, limit)
    for line in lines if section.txt_document == "line" else paragraphs(lines, limit):
        yield Row(line.number, text_of_bytes(line.content), stream.consumed())


def paragraphs(lines: Iterator[Line], max_bytes: int) -> Iterator[Line]:
    """Lines joined up to the next blank one, numbered by their first line; never holding more than `max_bytes`."""
    start, size, block = 0, 0, list[bytes]()
    for number, content in itertools.chain(lines, [Line(0, b"")]):
        if content is None or content.strip():
            start = start or number
            size += max_bytes + 1 if content is None else len(content) + bool(block)
            if content is None or size > max_bytes:
                block.clear()
            else:
                block.append(content)
        elif start:
            yield Line(start, b"\n".join(block) if size <= max_bytes else None)
            start, size, block = 0, 0, []


def read_jsonl(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """One JSON object per line; the text is its `text_field`."""
    for number, line in bounded_lines(stream.plain, section.max_document_bytes):
        yield Row(number, text_of_json(line, section.text_field), stream.consumed())


def text_of_json(line: bytes | None, field: str) -> str | BadRow:
    if line is None:
        return BadRow("oversized")
    if not line.strip():
        return BadRow("empty")
    return attempt(lambda: text_of_object(parse_json(line), field))


def parse_json(line: bytes) -> Any:
    """A JSON value. Raises BadRow."""
    try:
        return json.loads(decode(line))
    except (ValueError, RecursionError) as error:
        raise BadRow("invalid_json", str(error)) from None


def text_of_object(row: Any, field: str) -> str:
    """The text of one parsed row. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("wrong_type", f"the row is {type(row).__name__}, not an object")
    text = row.get(field)
    if text is None:
        raise BadRow("missing_field", f"`{field}` is not among {', '.join(map(str, row)) or 'no fields'}")
    if not isinstance(text, str):
        raise BadRow("wrong_type", f"`{field}` is {type(text).__name__}")
    return text


def read_parquet(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The column `text_field` of a parquet file, read as bytes: the format does not promise UTF-8."""
    arrow, parquet = require("pyarrow", "data"), require("pyarrow.parquet", "data")
    with stream.seekable() as file:
        try:
            table = parquet.ParquetFile(file)
            size = file.seek(0, 2)
            done, total = 0, table.metadata.num_rows
            for texts in _columns(arrow, table, section.text_field):
                for offset, text in enumerate(texts):
                    yield Row(done + offset + 1, text, size * (done + offset + 1) // total)
                done += len(texts)
        except arrow.ArrowException as error:
            name = str(getattr(stream.raw, "name", ""))
            raise UserError(f"not a readable parquet file ({error})", where=name) from error


def _columns(arrow: Any, table: Any, field: str) -> Iterator[list[str | BadRow]]:
    fault = _column_fault(arrow, table.schema_arrow, field)
    if fault is not None:
        for start in range(0, table.metadata.num_rows, PARQUET_BATCH_ROWS):
            yield [fault] * min(PARQUET_BATCH_ROWS, table.metadata.num_rows - start)
        return
    for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[field]):
        column = batch.column(0)
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        raws = column.cast(arrow.large_binary()).to_pylist()
        yield [BadRow("missing_field", f"`{field}` is null") if raw is None else text_of_bytes(raw) for raw in raws]


def _column_fault(arrow: Any, schema: Any, field: str) -> BadRow | None:
    if field not in schema.names:
        return BadRow("missing_field", f"`{field}` is not among {', '.join(schema.names)}")
    kind = schema.field(field).type
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary")
    if any(getattr(arrow.types, test, lambda _: False)(kind) for test in tests):
        return None
    return BadRow("wrong_type", f"`{field}` is {kind}")
