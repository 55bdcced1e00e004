"""Smoothing, the one calculation that the plots do."""

import numpy as np

from galore.trainer.record.plots import smooth


def test_smooth_is_the_mean_around_each_value() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, 4.0])
    assert smooth(values, 3).tolist() == [1.5, 3.0, 4.0, 5.0, 4.0]
    assert smooth(np.full(3, np.nan), 3).shape == (3,)
    assert np.isnan(smooth(np.full(3, np.nan), 3)).all()


def test_smooth_of_a_constant_and_of_a_line_does_not_lag() -> None:
    assert np.allclose(smooth(np.full(50, 2.5), 9), 2.5)
    line = np.arange(50.0)
    assert np.allclose(smooth(line, 9)[4:-4], line[4:-4])
