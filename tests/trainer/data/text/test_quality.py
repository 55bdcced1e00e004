from __future__ import annotations

import pytest

from galore.trainer.data.text.quality import SHOWN, BadRow, BadRows, attempt, shown, text_of_object, value_of


def test_words_of_the_data_cannot_steer_a_terminal() -> None:
    assert shown("café \x1b[2J\r\n\u202eok\x07") == r"café \x1b[2J\r\n\u202eok\x07"
    assert str(BadRow("missing_field", "\x1b]0;owned\x07")) == r"a field is missing (\x1b]0;owned\x07)"


def test_a_row_of_very_many_columns_makes_a_short_message() -> None:
    bad = BadRows("skip")
    bad.add(BadRow("missing_field", "`text` is not among " + ", ".join(map(str, range(200_000)))), "x.jsonl:1")
    assert len(bad.summary["missing_field"]["first"]) < SHOWN + 100


def test_files_are_counted_where_rows_come_from_files() -> None:
    bad = BadRows("skip")
    for file in ("a.txt", "b.txt", "a.txt"):
        bad.add(BadRow("invalid_utf8", encoding="cp1252" if file == "a.txt" else None), f"{file}:1", file, size=7)
    bad.add(BadRow("empty"), "row 7")
    known = {"rows": 3, "first": "a.txt:1: not valid UTF-8", "files": 2, "bytes": 21, "looks_like": {"cp1252": 2}}
    assert bad.summary == {
        "invalid_utf8": known,
        "empty": {"rows": 1, "first": "row 7: no text in it"},
    }


def test_a_bad_row_that_is_kept_holds_nothing_of_the_row() -> None:
    """Its traceback would: the frames with the row, and all that was made of it."""

    def parse() -> str:
        try:
            raise ValueError("x" * 1000)
        except ValueError as error:
            raise BadRow("empty", str(error)) from error

    bad = attempt(parse)
    assert isinstance(bad, BadRow)
    assert (bad.__traceback__, bad.__cause__, bad.__context__) == (None, None, None)


@pytest.mark.parametrize("field", ["text", ["text", "more"]])
def test_a_null_is_told_from_a_field_that_is_not_there(field: str | list[str]) -> None:
    for row, what in (({"text": None, "n": 1}, "`text` is null"), ({"n": 1}, "`text` is not among n")):
        with pytest.raises(BadRow) as caught:
            value_of(row, "text")
        assert (caught.value.kind, caught.value.detail) == ("missing_field", what)
    with pytest.raises(BadRow, match="`text` is not among n"):
        text_of_object({"n": 1}, field)
