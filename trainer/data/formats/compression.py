"""Compressed files: how each kind is told, and how it is unpacked piece by piece in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, cast

from galore.trainer.recipe.extras import require

CHUNK_BYTES = 1 << 16
XZ_MEMORY_BYTES = 1 << 28  # what `xz -9` asks for is a quarter; a header may ask for four gigabytes
MAGIC_BYTES = 10


@dataclass(frozen=True)
class Compression:
    """One kind. `unpack` gives a stream of the plain bytes; `tests` is the command that verifies a file, `package` what
    unpacking needs."""

    name: str
    magic: re.Pattern[bytes]
    unpack: Callable[[IO[bytes]], IO[bytes]]
    tests: str
    package: str = ""


def _gzip(raw: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw))


def _bz2(raw: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], bz2.BZ2File(raw))


def _xz(raw: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Xz(raw), CHUNK_BYTES))


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    arrow = require("pyarrow", "a file packed as .zst")
    return cast(IO[bytes], io.BufferedReader(arrow.CompressedInputStream(raw, "zstd"), CHUNK_BYTES))


COMPRESSIONS = {
    ".gz": Compression("gzip", re.compile(rb"\x1f\x8b"), _gzip, "gzip -t"),
    ".bz2": Compression("bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), _bz2, "bzip2 -t"),
    ".xz": Compression("xz", re.compile(rb"\xfd7zXZ\x00"), _xz, "xz -t"),
    ".zst": Compression("zstd", re.compile(rb"\x28\xb5\x2f\xfd"), _zstd, "zstd -t", "pyarrow"),
}  # by the end of the name


def unpacked_name(name: str) -> str:
    """The name of a file without what says that it is compressed."""
    return next((name[: -len(end)] for end in COMPRESSIONS if name.lower().endswith(end)), name)


def compression_of(name: str, beginning: bytes = b"") -> Compression | None:
    """The kind that the name of a file says, or its first bytes, if given; None for a plain file."""
    named = next((kind for end, kind in COMPRESSIONS.items() if name.lower().endswith(end)), None)
    return named or next((kind for kind in COMPRESSIONS.values() if kind.magic.match(beginning)), None)


def is_damage(error: Exception) -> bool:
    """Whether unpacking raised it; what the system refuses has a number."""
    damaged = isinstance(error, (zlib.error, EOFError, lzma.LZMAError))
    return damaged or (isinstance(error, OSError) and error.errno is None)


class _Xz(io.RawIOBase):
    """One stream after another of an xz file, as `lzma.LZMAFile` reads them, but with a limit on memory."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._decoder = _xz_decoder()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        while True:
            given = b""
            if self._decoder.eof:
                given = self._decoder.unused_data.lstrip(b"\0") or self._raw.read(CHUNK_BYTES).lstrip(b"\0")
                if not given:
                    return 0
                self._decoder = _xz_decoder()
            elif self._decoder.needs_input and not (given := self._raw.read(CHUNK_BYTES)):
                raise EOFError("the file ends before its data do")
            if plain := self._decoder.decompress(given, len(buffer)):
                buffer[: len(plain)] = plain
                return len(plain)


def _xz_decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
