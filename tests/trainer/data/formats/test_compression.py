from __future__ import annotations

import lzma
import tracemalloc
from pathlib import Path

import pytest
from packers import PACK

from galore.trainer.common.errors import UserError
from galore.trainer.data.formats import compression
from galore.trainer.data.formats.bytestream import bounded_lines, opened
from galore.trainer.data.formats.compression import COMPRESSIONS, unpacked_name

TEXT = b"".join(b"line %d\n" % number for number in range(9_000))


def test_every_kind_is_tried() -> None:
    assert PACK.keys() == COMPRESSIONS.keys()


@pytest.mark.parametrize("end", PACK)
def test_it_is_known_by_name_and_by_content_and_may_have_parts(tmp_path: Path, end: str) -> None:
    packed = PACK[end](TEXT) + PACK[end](b"") + PACK[end](b"last\n")
    for name in (f"a.txt{end}", f"A.TXT{end.upper()}", "plain.txt"):
        (tmp_path / name).write_bytes(packed)
        with opened(tmp_path / name) as stream:
            assert stream.plain.read() == TEXT + b"last\n"
            assert stream.consumed() == stream.size()
    assert unpacked_name(f"a.jsonl{end}") == "a.jsonl"


@pytest.mark.parametrize("end", PACK)
@pytest.mark.parametrize("damage", ["truncated", "shortened", "not packed", "goes on"])
def test_damage_is_one_error_that_names_the_file(tmp_path: Path, end: str, damage: str) -> None:
    whole = PACK[end](TEXT)
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "shortened": whole[:-3],
        "not packed": b"plain text, and more of it",
        "goes on": whole + b"garbage that is longer than a header",
    }
    if (end, damage) == (".bz2", "goes on"):
        pytest.skip("bzip2 ignores what follows, as its command does")
    path = tmp_path / f"a.txt{end}"
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"a\.txt\S+: damaged or truncated") as caught, opened(path) as stream:
        list(iter(lambda: stream.plain.read(1 << 16), b""))
    assert " -t` tests it" in (caught.value.fix or "")


@pytest.mark.parametrize("end", PACK)
def test_a_bomb_is_read_in_bounded_memory(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"bomb.txt{end}"
    path.write_bytes(PACK[end](b"x" * (1 << 24) + b"\nshort\n"))
    tracemalloc.start()
    with opened(path) as stream:
        assert list(bounded_lines(stream.plain, 1 << 16)) == [(1, None), (2, b"short")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20  # a decoder of xz has eight for itself


def test_xz_that_asks_for_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "XZ_MEMORY_BYTES", 1 << 20)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"a"))
    with pytest.raises(UserError, match=r"xz data \(Memory usage"), opened(tmp_path / "a.txt.xz") as stream:
        stream.plain.read()
