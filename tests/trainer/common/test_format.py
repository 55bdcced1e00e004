"""Numbers as people read them, at the edges where units change."""

import math
from collections.abc import Callable

import pytest

from galore.trainer.common.format import age, count, counted, duration, learning_rate, percent, perplexity, rate, size


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (size, 0, "0 B"),
        (size, 1023, "1023 B"),
        (size, 1024, "1.00 KiB"),
        (size, 1023 * 2**20, "1.00 GiB"),
        (size, 13.5 * 2**30, "13.5 GiB"),
        (size, 2000 * 2**30, "2000 GiB"),
        (count, 9_999, "9,999"),
        (count, 58_112, "58.1k"),
        (count, 999_999, "1.00M"),
        (count, 1.34e9, "1.34B"),
        (rate, 842.4, "842 tok/s"),
        (rate, 999.9, "1.00k tok/s"),
        (rate, 12_345, "12.3k tok/s"),
        (duration, 0.04, "0.0s"),
        (duration, 8.34, "8.3s"),
        (duration, 59.96, "1m00s"),
        (duration, 250, "4m10s"),
        (duration, 3599.9, "1h00m"),
        (duration, 3720, "1h02m"),
        (duration, 86400 * 3 + 4 * 3600, "3d04h"),
        (duration, math.inf, "?"),
        (percent, 0.4321, "43.2 %"),
        (perplexity, 75.314, "75.31"),
        (perplexity, 1234.5, "1,234"),
        (perplexity, 3.2e9, "3.2e+09"),
        (perplexity, math.inf, "inf"),
        (perplexity, math.nan, "nan"),
        (learning_rate, 0.0098, "9.80e-3"),
        (learning_rate, 1e-10, "1.00e-10"),
        (learning_rate, 1.0, "1.00e0"),
        (learning_rate, 0.0, "0"),
    ],
)
def test_numbers(function: Callable[[float], str], value: float, text: str) -> None:
    assert function(value) == text


def test_age():
    assert [age(seconds) for seconds in (-1, 59, 60, 7200, 3.2 * 86_400)] == ["now", "now", "1m", "2h", "3d"]


def test_things_are_counted() -> None:
    told = [counted(number, "document") for number in (0, 1, 2, 1171)]
    assert told == ["0 documents", "1 document", "2 documents", "1,171 documents"]
    assert [counted(number, "matrix", "matrices") for number in (1, 2)] == ["1 matrix", "2 matrices"]
