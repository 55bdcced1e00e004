"""A course of numbers in one line."""

from __future__ import annotations

import math

from galore.cli.show.progress.sparkline import ASCII, BLOCKS, MOST, Course


def drawn(values: list[float], width: int, marks: str = BLOCKS) -> str:
    course = Course()
    for value in values:
        course.add(value)
    return course.line(width, marks)


def test_the_lowest_is_low_and_the_highest_high() -> None:
    assert drawn([8.0, 7, 6, 5, 4, 3, 2, 1], 20) == BLOCKS[::-1]
    assert drawn([1.0, 8], 20, ASCII) == "_#"
    assert drawn([3.0, 3, 3], 20) == "▁▁▁"


def test_many_values_are_means_of_equal_spans() -> None:
    falling = [1 / (1 + step) for step in range(100_000)]
    for width in (5, 80, 2 * MOST):
        line = drawn(falling, width)
        assert len(line) <= width
        assert line[0] == BLOCKS[-1]
        assert list(line) == sorted(line, reverse=True)
    assert drawn([float(step) for step in range(100_000)], 8) == BLOCKS
    course = Course()
    for value in falling:
        course.add(value)
    assert len(course._means) <= 2 * MOST
    assert (course.first, course.last) == (1.0, falling[-1])


def test_what_is_not_finite_has_no_place() -> None:
    assert drawn([math.nan, 2, math.inf, 1], 9) == "█▁"
    assert drawn([], 9) == drawn([1.0], 9) == drawn([math.nan] * 9, 9) == ""
    assert drawn([-1.7e308, 1.7e308], 9) == "▁█"
