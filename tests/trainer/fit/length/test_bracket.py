"""The largest that fits, in few evaluations, of needs that grow evenly, in steps, or not as a line would have it."""

from __future__ import annotations

import pytest

from galore.trainer.fit.length.bracket import Found, largest

NEEDS = {
    "a line": lambda length: 10.0 + length,
    "two lines": lambda length: max(10.0 + length, 3.0 * length - 60_000),
    "curved": lambda length: 10.0 + length**1.3 / 20,
    "in steps": lambda length: 10.0 + length // 8192 * 8192,
}


@pytest.mark.parametrize("limit", [2_000, 21_000, 50_000.5, 100_000])
@pytest.mark.parametrize("name", NEEDS)
def test_the_largest(name: str, limit: float) -> None:
    need, asked = NEEDS[name], []

    def counted(length: int) -> float:
        asked.append(length)
        return need(length)

    found = largest(counted, limit, 1024, 16_384, 2**20, 12)
    assert len(asked) == len(set(asked)) <= 12
    assert all(length % 1024 == 0 for length in asked)
    best = max((each for each in range(1024, 2**20 + 1, 1024) if need(each) <= limit), default=0)
    assert found.fits <= best
    assert found.fits >= (1.0 if name in ("a line", "two lines") else 0.9) * best
    assert found.too_large is not None
    assert need(found.too_large) > limit


def test_none_fits_and_all_fit() -> None:
    assert largest(lambda length: 1e9, 5.0, 1024, 16_384, 2**20, 9) == Found(0, 1024)
    assert largest(lambda length: 1.0, 5.0, 1024, 16_384, 2**20, 9) == Found(2**20, None)


def test_no_more_than_so_many_tries() -> None:
    asked: list[int] = []
    found = largest(lambda length: asked.append(length) or float(length), 50_000.0, 1024, 16_384, 2**20, 2)
    assert len(asked) == 2
    assert found.fits == 16_384
