"""Smoothing, the one calculation that the plots do, and lines that can be seen."""

import numpy as np
import pytest

from galore.trainer.record.history import COLUMNS, History
from galore.trainer.record.shown.plots import _memory, smooth


def test_smooth_is_the_mean_around_each_value() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, 4.0])
    assert smooth(values, 3).tolist() == [1.5, 3.0, 4.0, 5.0, 4.0]
    assert smooth(np.full(3, np.nan), 3).shape == (3,)
    assert np.isnan(smooth(np.full(3, np.nan), 3)).all()


def test_smooth_of_a_constant_and_of_a_line_does_not_lag() -> None:
    assert np.allclose(smooth(np.full(50, 2.5), 9), 2.5)
    line = np.arange(50.0)
    assert np.allclose(smooth(line, 9)[4:-4], line[4:-4])


@pytest.mark.parametrize(("now", "seen"), [(1e9, False), (0.999e9, False), (0.9e9, True), (np.nan, False)])
def test_the_legend_of_memory_names_no_line_that_lies_under_another(now: float, seen: bool) -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="needs the plots extra")
    steps = {name: np.arange(1.0, 10.0) for name in COLUMNS}
    steps |= {"memory_peak_bytes": np.full(9, 1e9), "memory_current_bytes": np.full(9, now)}
    axes = figures.Figure().add_subplot()
    assert _memory(axes, History(steps, {}, [], [], {}, ""))
    assert ("in use after the step" in axes.get_legend_handles_labels()[1]) == seen
