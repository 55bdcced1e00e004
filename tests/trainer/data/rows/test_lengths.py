"""How much of a row is worth feeding."""

import numpy as np
import pytest

from galore.trainer.data.batch import IGNORED
from galore.trainer.data.rows.lengths import fed


@pytest.mark.parametrize(
    ("last", "columns", "expected"),
    [(1, 200, 64), (64, 200, 64), (65, 200, 128), (192, 200, 192), (193, 200, 200), (200, 200, 200), (0, 200, 64)],
)
def test_it_ends_with_the_last_target(last: int, columns: int, expected: int) -> None:
    """In multiples of 64, or with the row; a row without a target is the shortest."""
    labels = np.full((2, columns), IGNORED)
    labels[1, :last:3] = 7
    labels[1, max(last - 1, 0) : last] = 7
    assert fed(labels).tolist() == [64, expected]


def test_rows_that_are_short_are_fed_whole() -> None:
    labels = np.full((2, 24), IGNORED)
    labels[0, 3] = 1
    assert fed(labels).tolist() == [24, 24]
