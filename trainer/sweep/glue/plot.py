"""A fine-tuning on GLUE as a plot: the score of every method per task, and what its optimizer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from galore.trainer.sweep.glue.standing import Scored, last, standings
from galore.trainer.sweep.outcome import Outcome
from galore.trainer.sweep.plot import byte_unit, colors_of, dress, render

WIDTH = 0.8  # of the bars of one task
SEED: dict[str, Any] = {"color": "black", "marker": ".", "markersize": 5, "linestyle": "none"}
MAJORITY: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": ":"}


def draw(outcomes: Sequence[Outcome], title: str) -> bytes | None:
    """PNG of those that are done: bars at the median, a dot per seed, a line where the majority label would be.

    None where nothing is done.

    Raises:
        ImportError: matplotlib is not installed.
    """
    done = [each for each in standings(outcomes) if each.done]
    tasks = list(dict.fromkeys(each.task.folder for each in done))
    return render((6.5 + 1.3 * len(tasks), 5.4), title, partial(_paint, done, tasks)) if done else None


def _paint(done: Sequence[Scored], tasks: Sequence[str], figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colors = colors_of(each.label for each in done)
    labels = [*colors]
    scores, memory = figure.subplots(1, 2, width_ratios=(len(tasks) + 1, 2))
    for each in done:
        at = tasks.index(each.task.folder) + WIDTH * ((labels.index(each.label) + 0.5) / len(labels) - 0.5)
        _bar(scores, each, at, WIDTH / len(labels), colors[each.label])
    scores.set_xticks(range(len(tasks)), [_named(name, done) for name in tasks])
    scores.set(title="Score on the validation split", ylabel="percent")
    _memory(memory, done, colors)
    for axes, axis in ((scores, "y"), (memory, "x")):
        dress(axes, axis)
    handles: list[Any] = [Patch(color=color, label=label) for label, color in colors.items()]
    handles += [Line2D([], [], label="one seed; bars: the median", **SEED)]
    if any(_majority(each) is not None for each in done):
        handles += [Line2D([], [], label="always the majority label", **MAJORITY)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))


def _bar(axes: Any, each: Scored, at: float, width: float, color: Any) -> None:
    axes.bar([at], [100 * each.score], width * 0.92, color=color, alpha=0.85)
    seeds = [100 * last(run)[each.task.headline] for run in each.done]
    axes.plot([at] * len(seeds), seeds, **SEED)
    majority = _majority(each)
    if majority is not None:
        axes.hlines(100 * majority, at - width / 2, at + width / 2, **MAJORITY)


def _memory(axes: Any, done: Sequence[Scored], colors: Mapping[str, Any]) -> None:
    held = [max(run.optimizer_bytes for each in done if each.label == label for run in each.done) for label in colors]
    unit, name = byte_unit(held)
    axes.barh([*colors], [count / unit for count in held], color=[*colors.values()])
    axes.invert_yaxis()
    axes.set(title="Optimizer memory", xlabel=f"moments and projectors, {name}")


def _majority(each: Scored) -> float | None:
    return each.done[0].baseline.get(each.task.headline)


def _named(folder: str, done: Sequence[Scored]) -> str:
    metric = next(each.task.headline for each in done if each.task.folder == folder)
    return f"{folder}\n{metric.removesuffix('_correlation')}"
