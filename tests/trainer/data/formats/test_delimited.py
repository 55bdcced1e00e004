from __future__ import annotations

import io

import pytest

from galore.trainer.data.formats.delimited import records


def read(data: bytes, limit: int = 100, delimiter: str = ",") -> list[tuple[int, list[str] | str | None]]:
    return [tuple(record) for record in records(io.BytesIO(data), delimiter, limit)]  # type: ignore[misc]


def test_quotes_hold_line_ends_delimiters_and_quotes() -> None:
    table = b'\xef\xbb\xbfa,b\r\n"x\r\ny, ""z""",2\r\n\r\n3,"4"\n5,\n,last'
    assert read(table) == [
        (1, ["a", "b"]),
        (2, ['x\r\ny, "z"', "2"]),
        (4, []),
        (5, ["3", "4"]),
        (6, ["5", ""]),
        (7, ["", "last"]),
    ]
    assert read(b'a\tb\n"1,5"\tx"y\n', delimiter="\t") == [(1, ["a", "b"]), (2, ["1,5", 'x"y'])]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_exact_and_reading_goes_on(end: bytes) -> None:
    assert read(b"a\n" + b"x" * 100 + end)[1] == (2, ["x" * 100])
    assert read(b"a\n" + b"x" * 101 + end)[1] == (2, None)
    assert read(b"a\n" + b"x" * 5000 + b"\nb\n") == [(1, ["a"]), (2, None), (3, ["b"])]


def test_a_field_longer_than_the_library_allows_by_itself() -> None:
    assert read(b"a\n" + b"x" * 200_000, limit=200_000)[1] == (2, ["x" * 200_000])


def test_a_broken_record_costs_itself() -> None:
    assert read(b'a,b\n"x"y,1\nz,2\n') == [(1, ["a", "b"]), (2, "',' expected after '\"'"), (3, ["z", "2"])]


def test_a_quote_that_is_never_closed_takes_no_more_than_the_limit() -> None:
    assert read(b'a\n"open\nx\n')[1:] == [(2, "unexpected end of data")]
    lost = read(b'a\n"open\n' + b"x\n" * 200)
    assert lost[1] == (2, None)
    assert lost[2][0] < 110
    assert lost[-1] == (202, ["x"])


def test_bytes_that_are_no_text_stay_with_their_record() -> None:
    assert read(b"a\ncaf\xe9\nok\n") == [(1, ["a"]), (2, ["caf\udce9"]), (3, ["ok"])]
