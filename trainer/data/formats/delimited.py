"""The records of a delimited table (CSV, TSV), in bounded memory: a broken one costs itself, not those after it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, NamedTuple

from galore.trainer.data.formats.bytestream import UTF8_BOM, skip_line

BARE_CR = "a carriage return in a field without quotes"


class Record(NamedTuple):
    """Fields, or in words what is wrong; None: longer than the limit. Bytes that are no UTF-8 are lone surrogates."""

    number: int  # of its first line, from 1
    fields: list[str] | str | None


def records(stream: IO[bytes], delimiter: str, max_bytes: int) -> Iterator[Record]:
    """Every record, the header among them, as RFC 4180 has them: a quoted field may hold line ends and doubled quotes.

    A quote that is never closed takes all up to the limit, or to the end of the file, into one damaged record.
    """
    lines = _Lines(stream, max_bytes)
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes + 2))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = lines.begin()
        try:
            yield Record(number, next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, BARE_CR if "new-line character" in str(error) else str(error))
        except _TooLong:
            yield Record(number, None)


class _TooLong(Exception):  # noqa: N818 - it says what a record is, and never leaves this file
    pass


class _Lines:
    """Lines with their ends, no more of them in one record than the limit."""

    def __init__(self, stream: IO[bytes], max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._number, self._size = 0, 0

    def begin(self) -> int:
        """Begin a record; the number of its first line."""
        self._size = 0
        return self._number + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._max_bytes + 2)
        if not line:
            raise StopIteration
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(UTF8_BOM)
        self._size += len(line.rstrip(b"\r\n"))
        if self._size > self._max_bytes:
            if not line.endswith(b"\n"):
                skip_line(self._stream)
            raise _TooLong
        return line.decode("utf-8", "surrogateescape")
