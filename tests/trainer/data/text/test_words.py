from __future__ import annotations

import time

from galore.trainer.data.text.words import end_of_words, first_words, is_written, shared_length

LONG = "Ho ho. " * 300_000
THOUGHT = {"role": "assistant", "content": " <think>hm</think>\n\nb c "}


def test_words_end_behind_white_space_and_with_their_thought_where_the_text_has_it() -> None:
    assert end_of_words(THOUGHT, "a: \n<think>hm</think>\n\nb c</s>", 2) == len("a: \n<think>hm</think>\n\nb c")
    assert end_of_words(THOUGHT, "a: b c</s>", 2) == len("a: b c")
    assert end_of_words(THOUGHT, "a: b c</s>", 0) is None
    assert end_of_words({"content": ""}, "a: b", 2) == 3


def test_the_first_place_of_words_is_that_of_all_of_them_if_it_has_them() -> None:
    said = {"content": "b</think>a b"}
    assert first_words(said, "a b b</think>a b", 0) == (0, 3)
    assert first_words(said, "a b b</think>a b", 1) == (4, 16)
    assert first_words({"content": "a (b"}, "-a (b", 0) == (1, 5)
    assert first_words(said, "c", 0) is None


def test_words_are_written_as_they_are_or_in_json() -> None:
    assert is_written({"content": 'é"'}, 'an é"')
    assert is_written({"content": 'é"'}, '{"x": "\\u00e9\\""}')
    assert is_written({"content": 'é"'}, '{"x": "é\\""}')
    assert not is_written({"content": 'é"'}, "é")


def test_what_two_texts_share() -> None:
    assert [shared_length("abc", other) for other in ("abd", "ab", "abcd", "")] == [2, 2, 3, 0]


def test_long_words_are_found_in_no_time() -> None:
    """Two megabytes take milliseconds; time that grows with the square of the length would be minutes."""
    before = time.monotonic()
    message = {"content": LONG}
    assert end_of_words(message, f" {LONG}</s>", 0) == len(LONG.strip()) + 1
    assert first_words(message, f"a {LONG}</s>", 0) == (2, len(LONG.strip()) + 2)
    assert is_written(message, f"a {LONG}</s>")
    assert time.monotonic() - before < 5
