from __future__ import annotations

import numpy as np
import pytest

from galore.trainer.data.rows.binpack import best_fit


def test_the_longest_come_first_and_each_goes_where_it_fits_best() -> None:
    assert best_fit(np.array([2, 6, 3, 8, 5, 2]), 10).tolist() == [0, 1, 1, 0, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overflows_and_little_is_wasted(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 101, 1000)
    bins = best_fit(lengths, 100)
    filled = np.bincount(bins, lengths)
    assert filled.max() <= 100
    assert filled.min() > 0
    assert len(filled) <= 11 / 9 * np.ceil(lengths.sum() / 100) + 1
    first = [int(np.flatnonzero(bins == number)[0]) for number in range(len(filled))]
    assert first == sorted(first)


def test_full_bins_and_none() -> None:
    assert best_fit(np.array([4, 4]), 4).tolist() == [0, 1]
    assert best_fit(np.empty(0, np.int64), 4).tolist() == []
