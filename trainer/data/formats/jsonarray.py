"""The rows of a file that is one JSON array, as `json.dump` writes a list of them, in bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import UTF8_BOM
from galore.trainer.data.formats.encodings import looks_like
from galore.trainer.recipe.schema.data import UTF8

CHUNK_BYTES = 1 << 16
SEPARATORS = re.compile(r"[\s,]*")
FIX = "mend the file, or write one object a line (jsonl), where a damaged row is only counted"


def is_array(stream: IO[bytes]) -> bool:
    """Whether JSON that begins here is an array; nothing is consumed."""
    peekable: Any = stream
    return bytes(peekable.peek(CHUNK_BYTES)).removeprefix(UTF8_BOM).lstrip()[:1] == b"["


def elements(stream: IO[bytes], max_bytes: int, where: str, encoding: str = UTF8) -> Iterator[tuple[int, Any]]:
    """The values in the array, each with the line it begins on, never holding more than one and what was read with it.

    Args:
        encoding: what the UTF-8 of the stream was made from, for messages.

    Raises:
        UserError: what cannot be read, since nothing after it can be found; or a value longer than `max_bytes`.
    """
    text, ended, number = _Text(stream, where, encoding), False, 0
    text.take(re.compile(r"\s*\["))
    while not ended:
        text.take(SEPARATORS)
        ended = text.rest.startswith("]")
        if not ended:
            number += 1
            yield text.line, _value(text, max_bytes, number, where)
    text.take(re.compile(r"\]\s*"))
    if text.rest:
        raise UserError("the file goes on after its JSON array", where=where, fix=FIX)


def _value(text: _Text, max_bytes: int, number: int, where: str) -> Any:
    while True:
        try:
            value, end = json.JSONDecoder().raw_decode(text.rest)
            if end < len(text.rest) or text.ended:
                text.drop(end)
                return value
        except (ValueError, RecursionError) as error:
            if text.ended or isinstance(error, RecursionError):
                raise UserError(
                    f"element {number} of the JSON array is damaged ({error})", where=where, fix=FIX
                ) from None
        if len(text.rest) > max_bytes:
            what = f"element {number} of the JSON array is longer than {max_bytes:,} bytes, or never ends"
            raise UserError(what, where=where, fix=f"{FIX}; data.max_document_bytes is the limit")
        text.read()


class _Text:
    """What was read and not yet taken; twice as much is read each time a value is not whole."""

    def __init__(self, stream: IO[bytes], where: str, encoding: str) -> None:
        self._stream, self._where, self._encoding = stream, where, encoding
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.rest, self.line, self.ended = "", 1, False

    def read(self) -> None:
        chunk = self._stream.read(max(CHUNK_BYTES, len(self.rest)))
        self.ended = not chunk
        try:
            self.rest += self._decode(chunk, self.ended)
        except UnicodeDecodeError as error:
            raise self._not_text(error) from None

    def _not_text(self, error: UnicodeDecodeError) -> UserError:
        if self._encoding != UTF8:
            fix = "set data.encoding to what it is in, or convert it: iconv -f LATIN1 -t UTF-8"
            return UserError(f"not text in {self._encoding}", where=self._where, fix=fix)
        guess = looks_like(error.object, error.start)
        what = f"not valid UTF-8 (byte 0x{error.object[error.start]:02x})"
        fix = f"data.encoding={guess.encoding if guess else 'NAME'} reads files of another encoding"
        return UserError(what, where=self._where, fix=f"{fix}, or convert it: iconv -f LATIN1 -t UTF-8")

    def take(self, pattern: re.Pattern[str]) -> None:
        """Drop what the pattern matches, however far that goes."""
        while True:
            found = pattern.match(self.rest)
            if found and (found.end() < len(self.rest) or self.ended):
                self.drop(found.end())
                return
            if self.ended:
                return
            self.read()

    def drop(self, length: int) -> None:
        self.line += self.rest.count("\n", 0, length)
        self.rest = self.rest[length:]
