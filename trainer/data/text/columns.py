"""Rows of parquet and Arrow files: text, or the reason there is none."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from galore.trainer.common.errors import UserError
from galore.trainer.common.printable import listed
from galore.trainer.data.formats.bytestream import ByteStream
from galore.trainer.data.text.conversation import columns_of, read_without_nulls
from galore.trainer.data.text.quality import BadRow, attempt, decode, named_twice, text_of_object
from galore.trainer.data.text.readers import Row, parse_json, text_of_bytes
from galore.trainer.data.text.shapes import text_of_row
from galore.trainer.recipe.extras import require
from galore.trainer.recipe.schema.data import DataSection

BATCH_ROWS = 16  # rows are held at once; one of 50 MB takes a few bytes of a file that is made for it
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream, as every writer of today leaves it
INDEXED = b"ARROW1"  # begins a file of Arrow that is no stream


def read_parquet(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The column `text_field` of a parquet file, as bytes: the format does not promise UTF-8. Or its conversations."""
    parquet = require("pyarrow.parquet")
    with stream.seekable() as file, _readable(stream, "parquet"):
        table = parquet.ParquetFile(file)
        size, total = file.seek(0, 2), table.metadata.num_rows
        for number, text in enumerate(_texts(table, section), start=1):
            yield Row(number, text, size * number // total)


def read_arrow(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The column of Arrow record batches: a stream of them, which is what `save_to_disk` of datasets writes, or a file
    with an index, which is what Feather is."""
    arrow, plain = require("pyarrow"), cast(Any, stream.plain)
    with _readable(stream, "Arrow"):
        if plain.peek(len(INDEXED)).startswith(INDEXED):
            with stream.seekable() as file:
                reader = arrow.ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
                yield from _numbered(_Batches(reader.schema, batches), section, stream)
        else:
            reader = arrow.ipc.open_stream(stream.plain)
            yield from _numbered(_Batches(reader.schema, reader), section, stream)
            _require_end(stream)


def text_of_table(table: Any, field: str, section: DataSection | None) -> str:
    """The text of the only row of a table, of its column `field`, or of those that a section names. Raises BadRow."""
    rows = _Batches(table.schema, table.to_batches())
    (found,) = itertools.chain.from_iterable(_columns(rows, field) if section is None else _rows(rows, section))
    if isinstance(found, BadRow):
        raise found
    return found


def _require_end(stream: ByteStream) -> None:
    """Raise UserError where a stream was cut between two batches, or another follows: nobody would miss their rows."""
    name, more = str(getattr(stream.raw, "name", "")), bool(stream.plain.read(1))
    if more:
        raise UserError("goes on after the end of its Arrow stream", where=name, fix="make a file of each stream")
    if not stream.compressed:
        stream.raw.seek(-min(len(END), stream.size()), os.SEEK_END)
        if stream.raw.read() != END:
            what = "is cut short: the mark at the end of an Arrow stream is not there"
            raise UserError(what, where=name, fix="fetch or write the file again")


def _numbered(table: _Batches, section: DataSection, stream: ByteStream) -> Iterator[Row]:
    for number, text in enumerate(_texts(table, section), start=1):
        yield Row(number, text, stream.consumed())


class _Batches:
    """Record batches with what is used here of a parquet file."""

    def __init__(self, schema: Any, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.schema_arrow = schema

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        """The columns of all rows, so many rows at a time."""
        for batch in self._batches:
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
    field = section.one_column
    parts = _rows(table, section) if field is None else _columns(table, field)
    return itertools.chain.from_iterable(parts)


def _rows(table: Any, section: DataSection) -> Iterator[list[str | BadRow]]:
    required, optional = columns_of(section)
    names = table.schema_arrow.names
    fields = [field for field in (*required, *optional) if field in names]
    if missing := [field for field in required if field not in names]:
        what = ", ".join(f"`{field}`" for field in missing)
        yield from _all_bad(table, BadRow("missing_field", f"{what} is not among {listed(names)}"))
        return
    if twice := named_twice(names, fields):
        yield from _all_bad(table, twice)
        return
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=fields):
        yield [attempt(partial(_row, batch, index, section)) for index in range(batch.num_rows)]


def _row(batch: Any, index: int, section: DataSection) -> str:
    kinds = {each.name: each.type for each in batch.schema}
    try:
        values = {name: batch.column(name)[index].as_py() for name in kinds}
    except UnicodeDecodeError as error:
        decode(error.object)
        raise
    row = {
        name: decode(each) if isinstance(each, bytes) else _decoded(each, kinds[name]) for name, each in values.items()
    }
    bare = {name: _bare(each, kinds[name]) for name, each in row.items()}
    text = text_of_row(bare, section)
    if section.instruct and bare != row and attempt(partial(text_of_row, row, section)) != text:
        return read_without_nulls(text)
    return text


def _decoded(value: Any, kind: Any) -> Any:
    """What a value of an Arrow type means: where rows differ in shape, datasets keeps a part of them as JSON; writers
    that know no text keep bytes."""
    if value is None or not (_holds(kind, _is_json) or _holds(kind, _is_binary)):
        return value
    if _is_json(kind):
        return parse_json(value)
    if isinstance(value, bytes):
        return _text_or_bytes(value)
    if isinstance(value, dict):
        return {name: _decoded(each, kind.field(name).type) for name, each in value.items()}
    return [_decoded(each, kind.value_type) for each in value]


def _text_or_bytes(value: bytes) -> str | bytes:
    """Text inside of a row, or what is none there: an image beside the words of a message, which nobody reads."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _bare(value: Any, kind: Any) -> Any:
    """A value without the nulls of its structs: each has the keys of all others, of all rows. JSON keeps its own."""
    if value is None or not _holds(kind, _is_struct):
        return value
    if isinstance(value, dict):
        return {name: _bare(each, kind.field(name).type) for name, each in value.items() if each is not None}
    return [_bare(each, kind.value_type) for each in value]


@functools.cache
def _holds(kind: Any, test: Callable[[Any], bool]) -> bool:
    if hasattr(kind, "key_type"):  # a map, whose entries are read as they are
        return False
    return test(kind) or any(_holds(kind.field(index).type, test) for index in range(kind.num_fields))


def _is_struct(kind: Any) -> bool:
    return bool(require("pyarrow").types.is_struct(kind))


def _is_binary(kind: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_json(kind: Any) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.json"


def _all_bad(table: Any, fault: BadRow) -> Iterator[list[str | BadRow]]:
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=table.schema_arrow.names[:1]):
        yield [fault] * batch.num_rows


def _columns(table: Any, field: str) -> Iterator[Iterable[str | BadRow]]:
    arrow = require("pyarrow")
    fault = _column_fault(arrow, table.schema_arrow, field)
    if fault is not None:
        yield from _all_bad(table, fault)
        return
    for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[field]):
        # of `a.b` the batch has the field b of a struct a as well
        column, places = batch.column(batch.schema.get_field_index(field)), range(batch.num_rows)
        if _is_json(column.type):
            yield (_of_json(column[at].as_py(), field) for at in places)
            continue
        if arrow.types.is_dictionary(column.type):
            column, places = column.dictionary, column.indices.to_pylist()
        raws = column.cast(arrow.large_binary())
        yield (_of_bytes(None if at is None else raws[at].as_py(), field) for at in places)


def _of_bytes(raw: bytes | None, field: str) -> str | BadRow:
    return BadRow("missing_field", f"`{field}` is null") if raw is None else text_of_bytes(raw)


def _of_json(text: str | None, field: str) -> str | BadRow:
    return attempt(lambda: text_of_object({field: None if text is None else parse_json(text)}, field))


def _column_fault(arrow: Any, schema: Any, field: str) -> BadRow | None:
    if field not in schema.names:
        return BadRow("missing_field", f"`{field}` is not among {listed(schema.names)}")
    if twice := named_twice(schema.names, [field]):
        return twice
    kind = schema.field(field).type
    if _is_json(kind):
        return None
    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary")
    if any(getattr(arrow.types, test, lambda _: False)(kind) for test in tests):
        return None
    return BadRow("wrong_type", f"`{field}` is {kind}")
