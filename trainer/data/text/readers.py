"""Rows of txt, jsonl, CSV and TSV files: text, or the reason there is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import UTF8_BOM, ByteStream, Line, bounded_lines, require_line_ends
from galore.trainer.data.formats.delimited import records
from galore.trainer.data.formats.encodings import SEEN_BYTES, wide_encoding
from galore.trainer.data.formats.jsonarray import elements, is_array
from galore.trainer.data.text.conversation import columns_of
from galore.trainer.data.text.quality import BadRow, attempt, decode, named_twice, shown
from galore.trainer.data.text.shapes import text_of_row
from galore.trainer.recipe.schema.data import UTF8, DataSection

OTHER_DELIMITERS = (";", "\t", "|", ",")


class Row(NamedTuple):
    number: int  # line for text formats, row for parquet; from 1
    content: str | BadRow
    consumed: int  # bytes of the file read so far, as stored on disk
    element: int = 0  # of a JSON array; from 1


Reader = Callable[[ByteStream, DataSection], Iterator[Row]]


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
        for element, (number, row) in enumerate(rows, start=1):
            yield Row(number, attempt(partial(text_of_row, row, section)), stream.consumed(), element)
        return
    beginning = _beginning(stream)
    for number, content in bounded_lines(stream.plain, section.max_document_bytes):
        row = text_of_json(content, section)
        if number == 1 and isinstance(row, BadRow) and _is_json(content or beginning):
            require_line_ends(stream, content or beginning)
        yield Row(number, row, stream.consumed())


def _beginning(stream: ByteStream) -> bytes:
    """What a stream begins with; nothing is consumed."""
    peekable: Any = stream.plain
    return bytes(peekable.peek(SEEN_BYTES))[:SEEN_BYTES].removeprefix(UTF8_BOM)


def _is_json(line: bytes) -> bool:
    """Whether what stands before the first carriage return is a JSON value."""
    return isinstance(attempt(lambda: str(parse_json(decode(line.partition(b"\r")[0])))), str)


def text_of_json(line: bytes | None, section: DataSection) -> str | BadRow:
    if line is None:
        return BadRow("oversized")
    if not line.strip():
        return BadRow("empty")
    return attempt(lambda: text_of_row(parse_json(decode(line, section.encoding)), section))


def parse_json(text: str) -> Any:
    """A JSON value. Raises BadRow."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("invalid_json", str(error)) from None


def read_csv(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The rows of a table whose first record names the columns; fields are parted by commas unless the section says."""
    return _table(stream, section, section.delimiter or ",")


def read_tsv(stream: ByteStream, section: DataSection) -> Iterator[Row]:
    """The rows of a table as `read_csv` reads them, with tabs."""
    return _table(stream, section, section.delimiter or "\t")


def _table(stream: ByteStream, section: DataSection, delimiter: str) -> Iterator[Row]:
    _require_one_byte_letters(stream, section)
    beginning, rows = _beginning(stream), records(stream.plain, delimiter, section.max_document_bytes)
    header = next(rows, None)
    if header is None:
        return
    if not isinstance(header.fields, list):
        require_line_ends(stream, beginning)
    names = _names(header.fields, str(getattr(stream.raw, "name", "")), delimiter, section)
    needed = list(itertools.chain(*columns_of(section)))
    twice, places = named_twice(names, needed), {name: names.index(name) for name in needed if name in names}
    for number, fields in rows:
        read = partial(_text_of_fields, fields, names, places, section)
        yield Row(number, twice or attempt(read), stream.consumed())


def _require_one_byte_letters(stream: ByteStream, section: DataSection) -> None:
    """Raise UserError where a table begins in UTF-16: no column would have the name it is asked for."""
    if wide := wide_encoding(_beginning(stream)):
        fix = (
            f"data.encoding={wide} reads it, if all files are in it; else convert it: iconv -f {wide.upper()} -t UTF-8"
        )
        where = str(getattr(stream.raw, "name", ""))
        raise UserError(f"the table is {wide}, and is read as {section.encoding}", where=where, fix=fix)


def _names(fields: list[str] | str | None, where: str, delimiter: str, section: DataSection) -> list[str]:
    """The names of the columns. Raises UserError where the first record cannot hold them."""
    if not isinstance(fields, list) or not any(fields):
        what = fields if isinstance(fields, str) else "it is too long" if fields is None else "it is empty"
        raise UserError(f"the first line does not name the columns ({what})", where=where, fix="put their names there")
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in fields]
    other = next((sign for sign in OTHER_DELIMITERS if sign != delimiter and sign in names[0]), None)
    if len(names) == 1 and other and names[0] not in columns_of(section)[0]:
        what = f"the first line has {other!r} and no {delimiter!r} in it: {shown(names[0])}"
        raise UserError(what, where=where, fix=f"set data.delimiter: {other!r}")
    return names


def _text_of_fields(
    fields: list[str] | str | None, names: list[str], places: dict[str, int], section: DataSection
) -> str:
    if fields is None:
        raise BadRow("oversized")
    if isinstance(fields, str):
        raise BadRow("invalid_csv", fields)
    if not fields:
        raise BadRow("empty")
    if len(fields) > len(names):
        raise BadRow("invalid_csv", f"{len(fields)} fields, and the first line names {len(names)}")
    row = {name: _decoded(fields[place], section) for name, place in places.items() if place < len(fields)}
    if len(row) < len(places):
        raise BadRow("missing_field", f"{len(fields)} fields, and the first line names {len(names)}")
    return text_of_row(row if places else dict.fromkeys(names, ""), section)


def _decoded(field: str, section: DataSection) -> str:
    return field if field.isascii() else decode(field.encode("utf-8", "surrogateescape"), section.encoding)
