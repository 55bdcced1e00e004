from __future__ import annotations

import errno
import gzip
import io
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from galore.trainer.common.errors import RunFailed, UserError
from galore.trainer.data.formats.bytestream import Line, bounded_lines, opened


def lines(data: bytes, limit: int = 10) -> list[Line]:
    return list(bounded_lines(io.BytesIO(data), limit))


def test_line_ends_and_byte_order_mark_are_removed() -> None:
    assert lines(b"\xef\xbb\xbfone\r\ntwo\n\nlast") == [(1, b"one"), (2, b"two"), (3, b""), (4, b"last")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_exact(end: bytes) -> None:
    assert lines(b"x" * 10 + end) == [(1, b"x" * 10)]
    assert lines(b"x" * 11 + end) == [(1, None)]
    assert lines(b"x" * 12 + end) == [(1, None)]


def test_reading_goes_on_after_a_long_line() -> None:
    assert lines(b"a\n" + b"x" * 5_000_000 + b"\nb\n") == [(1, b"a"), (2, None), (3, b"b")]


def test_a_long_line_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\nshort\n")
    tracemalloc.start()
    with opened(path) as stream:
        assert list(bounded_lines(stream.plain, 1_000_000)) == [(1, None), (2, b"short")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(gzip.compress(b"hello"))
    with opened(path) as stream:
        assert stream.compressed
        assert stream.plain.read() == b"hello"


def _damage(data: bytes) -> dict[str, bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    return {"truncated": data[: len(data) // 2], "flipped": bytes(flipped), "not gzip": b"plain text", "empty": b""}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_damaged_gzip_is_a_user_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(_damage(gzip.compress(bytes(range(256)) * 50))[damage])
    with pytest.raises(UserError, match=r"text\.txt\.gz: damaged or truncated gzip"), opened(path) as stream:
        stream.plain.read()


def test_an_unreadable_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"), opened(tmp_path / "absent.txt"):
        pass


def test_what_unpacks_to_many_times_its_size_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galore.trainer.data.formats.bytestream.UNPACKED_BYTES", 1 << 20)
    (tmp_path / "bomb.parquet.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    with (
        pytest.raises(UserError, match="more than 20 times its size") as caught,
        opened(tmp_path / "bomb.parquet.gz") as stream,
        stream.seekable(),
    ):
        raise AssertionError
    assert caught.value.where == str(tmp_path / "bomb.parquet.gz")
    (tmp_path / "fair.parquet.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with opened(tmp_path / "fair.parquet.gz") as stream, stream.seekable() as file:
        assert file.read() == bytes(1 << 20)


def test_no_room_to_unpack_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, chunk: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress(b"x"))
    with (
        pytest.raises(RunFailed, match=r"no room in .* to unpack it"),
        opened(tmp_path / "x.parquet.gz") as stream,
        stream.seekable(),
    ):
        raise AssertionError
