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
SPACE, SEPARATORS = re.compile(r"\s*"), re.compile(r"[\s,]*")
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
    text.take(SPACE)
    text.at += 1  # the bracket, which `is_array` saw
    while not ended:
        text.take(SEPARATORS)
        ended = text.text.startswith("]", text.at)
        if not ended:
            number += 1
            yield text.line, _value(text, max_bytes, number, where)
    text.at += 1
    text.take(SPACE)
    if text.left:
        raise UserError("the file goes on after its JSON array", where=where, fix=FIX)


def _value(text: _Text, max_bytes: int, number: int, where: str) -> Any:
    while True:
        try:
            value, end = json.JSONDecoder().raw_decode(text.text, text.at)
            if end < len(text.text) or text.ended:
                text.advance(end)
                return value
        except (ValueError, RecursionError) as error:
            if text.ended or isinstance(error, RecursionError):
                raise UserError(
                    f"element {number} of the JSON array is damaged ({getattr(error, 'msg', error)})",
                    where=where,
                    fix=FIX,
                ) from None
        if text.left > max_bytes:
            what = f"element {number} of the JSON array is longer than {max_bytes:,} bytes, or never ends"
            raise UserError(what, where=where, fix=f"{FIX}; data.max_document_bytes is the limit")
        text.read()


class _Text:
    """What was read and not yet taken, from `at` on; twice as much is read each time a value is not whole."""

    def __init__(self, stream: IO[bytes], where: str, encoding: str) -> None:
        self._stream, self._where, self._encoding = stream, where, encoding
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    @property
    def left(self) -> int:
        """Letters that are not taken."""
        return len(self.text) - self.at

    def read(self) -> None:
        chunk = self._stream.read(max(CHUNK_BYTES, self.left))
        self.ended = not chunk
        try:
            self.text, self.at = self.text[self.at :] + self._decode(chunk, self.ended), 0
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
        """Drop all that the pattern matches, which may be nothing, however far that goes; never holding it."""
        while True:
            found = pattern.match(self.text, self.at)
            self.advance(found.end() if found else self.at)
            if self.left or self.ended:
                return
            self.read()

    def advance(self, to: int) -> None:
        """Go on at `to`; `line` is the one it is in."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to
