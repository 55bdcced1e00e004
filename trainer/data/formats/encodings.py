"""Encodings other than UTF-8: text in one as a stream of UTF-8, and what bytes that are not UTF-8 look like."""

from __future__ import annotations

import codecs
import io
from typing import IO, NamedTuple, cast

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats.bytestream import ByteStream

MISREAD = "UTF-8 read as another encoding"
CHUNK_BYTES = 1 << 16
INVALID = "galore-invalid"  # the error handler that leaves bytes which are UTF-8 nowhere
SEEN_BYTES = 2048  # to each side of a byte that is not UTF-8
WORDS = 20  # bytes to each side of it, for people
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SIGNS = set("‘’‚‹›“”„«»…–—•¡¿°§£€©®·ªº½¼¾\xa0\xad")  # beside letters, what western text has beyond ASCII


def _invalid(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return b"\xff" * (error.end - error.start), error.end
    raise error


codecs.register_error(INVALID, _invalid)


def transcoded(stream: ByteStream, encoding: str) -> ByteStream:
    """The same text as UTF-8, in bounded memory and without a byte-order mark; what is no text in `encoding` becomes
    bytes that are not UTF-8, so that the row is a bad one and no other is lost."""
    plain = io.BufferedReader(_AsUtf8(stream, encoding), CHUNK_BYTES)
    return ByteStream(cast(IO[bytes], plain), stream.raw)


class _AsUtf8(io.RawIOBase):
    def __init__(self, stream: ByteStream, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)(INVALID)
        self._rest, self._begun, self._ended = memoryview(b""), False, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        while not self._rest and not self._ended:
            self._read()
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _read(self) -> None:
        chunk = self._stream.plain.read(CHUNK_BYTES)
        self._ended = not chunk
        try:
            text = self._decoder.decode(chunk, self._ended)
        except UnicodeError as error:  # no byte of it: UTF-16 without a byte-order mark, for one
            fix = f"write data.encoding: {self._encoding}-le or {self._encoding}-be, or convert the file"
            where = str(getattr(self._stream.raw, "name", ""))
            raise UserError(f"not {self._encoding} ({error})", where=where, fix=fix) from None
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        self._rest = memoryview(text.encode("utf-8", INVALID))


class Guess(NamedTuple):
    """An encoding that bytes may be in, and some of their words in it."""

    encoding: str
    words: str


def looks_like(raw: bytes, start: int) -> Guess | None:
    """What `raw` may be, whose byte at `start` is not UTF-8: UTF-16, or western European text; None where neither is
    likely. Whether the words make sense is for a person to say: other alphabets may pass for western letters."""
    near = raw[max(0, start - SEEN_BYTES) : start + SEEN_BYTES]
    if raw.startswith(BYTE_ORDER_MARKS) or is_wide(near):
        return Guess("utf-16", "")
    text = near.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(letter > "\x7f" for letter in text) > 2 * broken:
        return None  # damaged UTF-8
    try:
        western = near.decode("cp1252")
    except UnicodeDecodeError:
        return None
    letters = sum(map(str.isalpha, western))
    beyond = [letter for letter in western if letter > "\x7f"]
    accented = sum(map(str.isalpha, beyond))
    if not all(letter.isalpha() or letter in SIGNS for letter in beyond) or 3 * accented > letters + 2:
        return None
    return Guess("cp1252", " ".join(raw[max(0, start - WORDS) : start + WORDS].decode("cp1252", "replace").split()))


def wide_encoding(beginning: bytes) -> str:
    """The kind of UTF-16 that a file begins with, by its byte-order mark or by where its NUL bytes are; "" if none."""
    if beginning.startswith(BYTE_ORDER_MARKS):
        return "utf-16"
    if not is_wide(beginning):
        return ""
    return "utf-16-be" if beginning[::2].count(0) > beginning[1::2].count(0) else "utf-16-le"


def is_wide(near: bytes) -> bool:
    """Whether so many bytes are NUL as in ASCII of two bytes a letter."""
    return len(near) > 3 and 4 * near.count(0) > len(near)


def is_misread(text: str, encoding: str) -> bool:
    """Whether text that was read in another encoding was UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode(encoding).decode("utf-8")
    except UnicodeError:
        return False
    return True
