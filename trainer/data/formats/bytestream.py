"""Reading bytes of a file, compressed or not, in bounded memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.common.reading import open_regular
from galore.trainer.data.formats.compression import MAGIC_BYTES, Compression, compression_of, is_damage

CHUNK_BYTES = 1 << 20
UNPACKED_BYTES = 1 << 26  # never too much for a temporary file
UNPACKED_RATIO = 20  # of the size of the file; rows hardly shrink more, files made to fill a disk a thousandfold
UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ByteStream:
    """Plain bytes, and the file they come from."""

    plain: IO[bytes]
    raw: IO[bytes]

    def consumed(self) -> int:
        """Bytes of the file read so far, as stored on disk."""
        return self.raw.tell()

    def size(self) -> int:
        """Bytes of the whole file, as stored on disk."""
        return os.fstat(self.raw.fileno()).st_size

    @property
    def compressed(self) -> bool:
        return self.plain is not self.raw

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """The plain bytes in a file that seeks fast; compressed ones are unpacked into an unnamed temporary file.

        Raises:
            UserError: they are many times more than the file.
            RunFailed: there is no room for them.
        """
        if not self.compressed:
            yield self.raw
            return
        with tempfile.TemporaryFile() as unpacked:
            self._unpack(unpacked)
            unpacked.seek(0)
            yield unpacked

    def _unpack(self, target: IO[bytes]) -> None:
        name, fix = str(getattr(self.raw, "name", "")), "unpack it yourself: parquet compresses by itself"
        limit = max(UNPACKED_BYTES, UNPACKED_RATIO * self.size())
        while chunk := self.plain.read(CHUNK_BYTES):
            limit -= len(chunk)
            if limit < 0:
                what = f"unpacks to more than {UNPACKED_RATIO} times its size"
                raise UserError(what, where=name, fix=fix)
            try:
                target.write(chunk)
            except OSError as error:
                what = f"no room in {tempfile.gettempdir()} to unpack it ({error.strerror or error})"
                raise RunFailed(what, where=name, fix=f"{fix}, or set TMPDIR to another folder") from error


@contextmanager
def opened(path: Path) -> Iterator[ByteStream]:
    """Open a file; what cannot be read becomes a UserError that names it."""
    kind: Compression | None = None
    try:
        with open_regular(path) as raw:
            kind = compression_of(path.name, raw.read(MAGIC_BYTES))
            raw.seek(0)
            if kind is None:
                yield ByteStream(raw, raw)
                return
            with kind.unpack(raw) as plain:
                yield ByteStream(plain, raw)
    except Exception as error:
        if kind is not None and is_damage(error):
            what = f"damaged or truncated {kind.name} data ({error})"
            fix = f"fetch or compress the file again; `{kind.tests}` tests it"
            raise UserError(what, where=str(path), fix=fix) from error
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


class Line(NamedTuple):
    number: int  # from 1
    content: bytes | None  # without its line end; None: longer than the limit, and skipped


def bounded_lines(stream: IO[bytes], max_bytes: int) -> Iterator[Line]:
    """Lines of a byte stream, never holding more than `max_bytes` of one."""
    number = 0
    while line := stream.readline(max_bytes + 2 + (0 if number else len(UTF8_BOM))):
        number += 1
        if number == 1:
            line = line.removeprefix(UTF8_BOM)
        ended = line.endswith(b"\n")
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) <= max_bytes:
            yield Line(number, line)
            continue
        del line
        if not ended:
            skip_line(stream)
        yield Line(number, None)


def require_line_ends(stream: ByteStream, beginning: bytes) -> None:
    """Raise UserError where what a file begins with, which cannot be read, is more than one line by CR alone."""
    head, _, rest = beginning.partition(b"\n")[0].rstrip(b"\r").partition(b"\r")
    if head and rest:
        fix = r"make line ends of them: tr '\r' '\n' < OLD > NEW"
        what = "its lines end in carriage returns (CR) without line feeds"
        raise UserError(what, where=str(getattr(stream.raw, "name", "")), fix=fix)


def skip_line(stream: IO[bytes]) -> None:
    """Read on to the end of a line."""
    while (chunk := stream.readline(CHUNK_BYTES)) and not chunk.endswith(b"\n"):
        pass
