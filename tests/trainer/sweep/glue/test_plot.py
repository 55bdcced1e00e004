"""What is drawn of a fine-tuning is explained in its legend: colours, dots and dotted lines."""

from __future__ import annotations

import pytest

from galore.trainer.sweep.glue import plot
from galore.trainer.sweep.glue.grid import grid
from galore.trainer.sweep.glue.standing import standings
from galore.trainer.sweep.outcome import Outcome

figures = pytest.importorskip("matplotlib.figure")


@pytest.mark.parametrize("majority", [True, False])
def test_the_legend_is_complete(majority: bool) -> None:
    trials = grid(None, [], "mrpc,rte", "galore,full", runs=2)
    scores = {"accuracy": 0.5, "f1": 0.6}
    baseline = scores if majority else {}
    runs = [Outcome(trial, "done", 9, 2**20, 2**30, 60.0, epochs=(scores,), baseline=baseline) for trial in trials]
    figure = figures.Figure()
    plot._paint(standings(runs), ["MRPC", "RTE"], figure)
    (legend,) = figure.legends
    last = ["always the majority label"] if majority else []
    assert [text.get_text() for text in legend.get_texts()] == [
        "galore-r4",
        "full",
        "one seed; bars: the median",
        *last,
    ]
