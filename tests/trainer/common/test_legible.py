"""Letters that an encoding lacks: each in ASCII, and bytes of names as they were."""

from __future__ import annotations

import pytest

from galore.trainer.common.legible import ASCII, LEGIBLE


@pytest.mark.parametrize(
    ("text", "encoding", "told"),
    [
        ("1–2 ± 3", "ascii", b"1-2 +/- 3"),
        ("1–2 ± 3", "latin-1", b"1-2 \xb1 3"),
        ("日本 a", "ascii", b"?? a"),
        ("a\udcff\udc80b", "ascii", b"a\xff\x80b"),
        ("–\udcff", "ascii", b"-?"),
        ("\ud800", "utf-8", b"?"),
        ("日", "utf-8", "日".encode()),
    ],
)
def test_a_letter_that_is_lacking(text: str, encoding: str, told: bytes) -> None:
    assert text.encode(encoding, LEGIBLE) == told


def test_reading_is_as_strict_as_before() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", LEGIBLE)


def test_what_takes_their_place_is_ascii() -> None:
    assert all(told.isascii() and not letter.isascii() for letter, told in ASCII.items())
