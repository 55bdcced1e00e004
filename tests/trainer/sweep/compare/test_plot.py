"""Every run of a comparison is drawn, the best ones bold, and every line and mark is in the legend."""

from __future__ import annotations

import pytest

from galore.trainer.recipe.load import load_recipe
from galore.trainer.sweep.compare import plot
from galore.trainer.sweep.compare.standing import standings
from galore.trainer.sweep.options import Trial
from galore.trainer.sweep.outcome import Outcome

figures = pytest.importorskip("matplotlib.figure")


def run(label: str, rate: float, seed: int, loss: float, status: str = "done") -> Outcome:
    loaded = load_recipe("demo", [f"optim.learning_rate={rate}", f"train.seed={seed}"])
    trial = Trial(f"{label}-lr{rate}-seed{seed}", label, label, loaded)
    curve = ((0, loss + 3), (50, loss + 1), (99, loss))
    return Outcome(trial, status, 99, 2**20, 2**30, 60.0, curve, ((99, loss),) if loss < 9 else ())


RUNS = [run("full", 0.01, 1, 4.0), run("full", 0.01, 2, 4.2), run("full", 0.1, 1, 7.0), run("lora", 0.01, 1, 5.0)]
RUNS += [run("galore", 0.01, 1, 3.0, "failed: the loss is nan"), run("galore", 1.0, 1, 99.0, "not finished")]


def test_every_run_is_a_line_and_the_legend_is_complete() -> None:
    figure = figures.Figure()
    plot._paint(standings(RUNS), figure)
    training, held_out, memory, _ = figure.axes
    drawn = [line for line in training.lines if len(line.get_xdata()) == 3]
    assert len(drawn) == len(RUNS)
    assert sorted(line.get_linewidth() for line in drawn) == [plot.THIN] * 3 + [plot.BOLD] * 3
    assert sum(len(line.get_xdata()) == 1 for line in held_out.lines) == 5
    assert sum(len(line.get_xdata()) for line in memory.lines if line.get_marker() == "o") == 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "full, 0.01 (its best)",
        "lora, 0.01 (its best)",
        "full, 0.1",
        "galore, 0.01, 0 of 1 done",
        "galore, 1, 0 of 1 done",
        "one seed",
        "mean of the seeds",
    ]
    assert training.get_xlim()[0] == held_out.get_xlim()[0] == 0
    assert training.get_ylim()[1] < 9  # what diverged does not press the others flat
    kinds = {(line.get_color(), line.get_linestyle()) for line in drawn}
    assert len(kinds) == 5  # of methods and rates


def test_what_never_began_is_no_plot() -> None:
    loaded = load_recipe("demo")
    assert plot.draw([Outcome(Trial("full", "full", "full", loaded), "not finished", 0, 0, 0, 0.0)], "T") is None
    assert (plot.draw(RUNS, "T") or b"").startswith(b"\x89PNG")
