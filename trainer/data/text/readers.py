"""Rows of txt, jsonl, parquet and Arrow files: text, or the reason there is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import listed
from galore.trainer.data.text.bytestream import UTF8_BOM, ByteStream, Line, bounded_lines
from galore.trainer.data.text.conversation import columns_of, conversation_of
from galore.trainer.data.text.jsonarray import elements, is_array
from galore.trainer.data.text.quality import BadRow, decode, text_of_object
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.data import UTF8, DataSection

BATCH_ROWS = 256


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


def text_of_bytes(raw: bytes | None, encoding: str = UTF8) -> str | BadRow:
    return BadRow("oversized") if raw is None else attempt(lambda: decode(raw, encoding))


def read_txt(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """One document per file, per paragraph (blank lines part them) or per line, as `txt_document` says."""
    limit = section.max_document_bytes
    if section.txt_document == "file":
        whole = stream.plain.read(limit + 1 + len(UTF8_BOM)).removeprefix(UTF8_BOM)
        yield Row(1, text_of_bytes(whole if len(whole) <= limit else None, section.encoding), stream.size())
        return
    lines = bounded_lines(stream.plain, limit)
    for line in lines if section.txt_document == "line" else paragraphs(lines, limit):
        yield Row(line.number, text_of_bytes(line.content, section.encoding), stream.consumed())


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
    """One JSON object per line, or all of them in one array; the text of each, or its conversation as JSON, is where
    the section says."""
    if is_array(stream.plain):
        name = str(getattr(stream.raw, "name", ""))
        rows = elements(stream.plain, section.max_document_bytes, name, section.encoding)
        for number, row in enumerate(rows, start=1):
            yield Row(number, attempt(partial(text_of_row, row, section)), stream.consumed())
        return
    for number, line in bounded_lines(stream.plain, section.max_document_bytes):
        yield Row(number, text_of_json(line, section), stream.consumed())


def text_of_json(line: bytes | None, section: DataSection) -> str | BadRow:
    if line is None:
        return BadRow("oversized")
    if not line.strip():
        return BadRow("empty")
    return attempt(lambda: text_of_row(parse_json(line, section.encoding), section))


def text_of_row(row: Any, section: DataSection) -> str:
    """The text of one parsed row, or its conversation as JSON. Raises BadRow."""
    return conversation_of(row, section) if section.instruct else text_of_object(row, section.text_field)


def parse_json(line: bytes, encoding: str) -> Any:
    """A JSON value. Raises BadRow."""
    try:
        return json.loads(decode(line, encoding))
    except (ValueError, RecursionError) as error:
        raise BadRow("invalid_json", str(error)) from None


def read_parquet(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The column `text_field` of a parquet file, as bytes: the format does not promise UTF-8. Or its conversations."""
    parquet = require("pyarrow.parquet")
    with stream.seekable() as file, _readable(stream, "parquet"):
        table = parquet.ParquetFile(file)
        size, total = file.seek(0, 2), table.metadata.num_rows
        for number, text in enumerate(_texts(table, section), start=1):
            yield Row(number, text, size * number // total)


def read_arrow(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The column of a stream of Arrow record batches, which is what `save_to_disk` of datasets writes."""
    arrow = require("pyarrow")
    with _readable(stream, "Arrow"):
        table = _Batches(arrow.ipc.open_stream(stream.plain))
        for number, text in enumerate(_texts(table, section), start=1):
            yield Row(number, text, stream.consumed())


class _Batches:
    """A stream of record batches with what is used here of a parquet file."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.schema_arrow = reader.schema

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        """The columns of all rows, so many rows at a time."""
        for batch in self._reader:
            for start in range(0, batch.num_rows, batch_size):
                yield batch.slice(start, batch_size).select(columns)


@contextmanager
def _readable(stream: ByteStream, kind: str) -> Iterator[None]:
    try:
        yield
    except require("pyarrow").ArrowException as error:
        name = str(getattr(stream.raw, "name", ""))
        raise UserError(f"not a readable {kind} file ({error})", where=name) from error


def _texts(table: Any, section: DataSection) -> Iterator[str | BadRow]:
    parts = _conversations(table, section) if section.instruct else _columns(table, section.text_field)
    return itertools.chain.from_iterable(parts)


def _conversations(table: Any, section: DataSection) -> Iterator[list[str | BadRow]]:
    required, optional = columns_of(section)
    names = table.schema_arrow.names
    fields = [field for field in (*required, *optional) if field in names]
    if missing := [field for field in required if field not in names]:
        what = ", ".join(f"`{field}`" for field in missing)
        yield from _all_bad(table, BadRow("missing_field", f"{what} is not among {listed(names)}"))
        return
    if twice := _named_twice(names, fields):
        yield from _all_bad(table, twice)
        return
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=fields):
        yield [attempt(partial(_conversation, batch, index, section)) for index in range(batch.num_rows)]


def _named_twice(names: list[str], fields: list[str]) -> BadRow | None:
    twice = [field for field in fields if names.count(field) > 1]
    return BadRow("wrong_type", f"`{twice[0]}` is the name of {names.count(twice[0])} columns") if twice else None


def _conversation(batch: Any, index: int, section: DataSection) -> str:
    try:
        row = {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        raise BadRow("invalid_utf8", str(error)) from None
    return text_of_row(row, section)


def _all_bad(table: Any, fault: BadRow) -> Iterator[list[str | BadRow]]:
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=table.schema_arrow.names[:1]):
        yield [fault] * batch.num_rows


def _columns(table: Any, field: str) -> Iterator[list[str | BadRow]]:
    arrow = require("pyarrow")
    fault = _column_fault(arrow, table.schema_arrow, field)
    if fault is not None:
        yield from _all_bad(table, fault)
        return
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[field]):
        column = batch.column(0)
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        raws = column.cast(arrow.large_binary()).to_pylist()
        yield [BadRow("missing_field", f"`{field}` is null") if raw is None else text_of_bytes(raw) for raw in raws]


def _column_fault(arrow: Any, schema: Any, field: str) -> BadRow | None:
    if field not in schema.names:
        return BadRow("missing_field", f"`{field}` is not among {listed(schema.names)}")
    if twice := _named_twice(schema.names, [field]):
        return twice
    kind = schema.field(field).type
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary")
    if any(getattr(arrow.types, test, lambda _: False)(kind) for test in tests):
        return None
    return BadRow("wrong_type", f"`{field}` is {kind}")
